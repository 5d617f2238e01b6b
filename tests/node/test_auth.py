"""Secrets stay in Secrets, and every pod is restricted as Pod Security has it, shown on a server that really runs."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from node.support import workloads
from node.support.served import Served, serve, tiny
from node.support.stage import Stage, offer_models, on_stage
from node.support.watched import Watched, watched
from podsecurity import violations

pytestmark = pytest.mark.real_node

MODEL = "locked"
API_KEY, HUB_TOKEN = f"sk-{secrets.token_hex(16)}", f"hf_{secrets.token_hex(16)}"
QUESTION: Any = [{"role": "user", "content": "What is a Secret?"}]
CHAT = {"model": MODEL, "messages": QUESTION, "max_tokens": 4}
# All kinds of the namespace that hold or repeat what the spec says; Secrets are not among them.
KINDS = "all,vllmdeployments,events,pvc,configmaps,serviceaccounts,endpointslices,controllerrevisions,leases"
COMPONENTS = ("inspect", "preload", "server")

# Runs in the server's container: who it is and what it may do, as JSON.
LOOK = """
import json, os
def written(folder):
    try:
        with open(folder + "/probe", "w"):
            os.unlink(folder + "/probe")
            return True
    except OSError as error:
        return os.strerror(error.errno)
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
folders = ("/", "/opt/vllm", "/models", "/models/hub", "/tmp", "/dev/shm", os.environ["HOME"])
print(json.dumps({
    "uids": status["Uid"].split(), "gids": status["Gid"].split(),
    "capabilities": [status[one] for one in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "account": os.path.exists("/var/run/secrets/kubernetes.io"),
    "written": {folder: written(folder) for folder in folders},
    "arguments": open("/proc/1/cmdline").read(),
}))
"""


@pytest.fixture(scope="module")
def stage(cluster: ClusterAccess, tiny_model: Path) -> Iterator[Stage]:
    assert isinstance(cluster, Cluster)
    with on_stage(cluster, "auth") as made:
        offer_models(made.hub, tiny_model, token=HUB_TOKEN)
        yield made


@pytest.fixture(scope="module")
def history(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(stage.kubectl, tmp_path_factory.mktemp("auth") / "pods.json") as found:
        yield found


@pytest.fixture(scope="module")
def served(stage: Stage, history: Watched) -> Served:
    assert history.pods == []
    for name, key, value in (("api-key", "api-key", API_KEY), ("hub", "token", HUB_TOKEN)):
        data = {key: base64.b64encode(value.encode()).decode()}
        stage.kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    manifest = tiny(stage, MODEL)
    manifest["spec"]["model"]["tokenSecretRef"] = {"name": "hub"}
    manifest["spec"]["auth"] = {"apiKeySecretRef": {"name": "api-key"}}
    return serve(stage, manifest)


def asked(served: Served, **headers: str) -> int:
    return httpx.post(f"{served.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60).status_code


def test_only_the_key_opens_the_api(served: Served) -> None:
    assert asked(served) == 401
    assert asked(served, authorization="Bearer wrong") == 401
    assert asked(served, authorization=f"Bearer {API_KEY}") == 200
    assert httpx.get(f"{served.url}/v1/models").status_code == 401


def test_the_openai_sdk_needs_the_key(served: Served) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key=API_KEY, max_retries=0) as client:
        answered = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4)
        assert answered.choices[0].message.content
        with pytest.raises(AuthenticationError):
            client.with_options(api_key="wrong").models.list()


def test_probes_and_the_operator_need_no_key(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").status_code == 200
    (container,) = served.pod["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
    assert wait_for(lambda: served.status["sizing"].get("measured"), 60, "the operator read /metrics")


def test_the_cpu_backend_is_not_sized(served: Served) -> None:
    assert served.condition("Sized")["reason"] == "Skipped"
    assert served.status["sizing"].get("predicted") is None


def test_the_hub_was_asked_with_the_token_alone(stage: Stage, served: Served) -> None:
    assert served.status["model"]["commit"]
    assert stage.hub.seen
    assert [one for one in stage.hub.seen if not one.authorized] == []


def test_secrets_are_in_no_object_and_no_log(stage: Stage, served: Served, history: Watched) -> None:
    preload = f"--selector=app.kubernetes.io/component=preload,app.kubernetes.io/instance={MODEL}"
    said = {
        "states of pods": history.text,
        "objects": stage.kubectl("get", KINDS, "--output=json", "--show-managed-fields").stdout,
        "events": stage.kubectl("describe", "vllmdeployment", MODEL).stdout,
        "log of the server": served.log,
        "log of the preload": stage.kubectl("logs", preload).stdout,
        "log of the operator": stage.operator.log.read_text(),
        "processes of the server": served.run("sh", "-c", "cat /proc/[0-9]*/cmdline"),
    }
    for place, text in said.items():
        assert text, f"nothing is known of the {place}"
        for value in (API_KEY, HUB_TOKEN):
            assert value not in text, f"a secret is in the {place}"
            assert base64.b64encode(value.encode()).decode() not in text, f"a secret is in the {place}, encoded"


def test_the_server_is_given_the_key_but_not_the_token_of_the_hub(served: Served) -> None:
    environment = served.run("env").splitlines()
    assert f"VLLM_API_KEY={API_KEY}" in environment
    assert not [line for line in environment if HUB_TOKEN in line]


def test_the_namespace_enforces_what_every_pod_obeys(stage: Stage, served: Served, history: Watched) -> None:
    assert served.pod["status"]["phase"] == "Running"
    forbidden = workloads.pod("forbidden", ["id"])
    forbidden["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = stage.kubectl("apply", "--filename=-", input=forbidden, check=False).stderr
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in refused
    for component in COMPONENTS:
        pods = history.of(component)
        assert any(pod["status"]["phase"] in ("Running", "Succeeded") for pod in pods), f"no {component} pod ran"
        assert [found for pod in pods for found in violations(pod["spec"])] == []


def test_the_container_is_as_locked_as_its_spec_says(served: Served) -> None:
    seen = json.loads(served.run("python3", "-c", LOOK))
    assert set(seen["uids"]) == set(seen["gids"]) == {"1000"}
    assert set(seen["capabilities"]) == {"0000000000000000"}
    assert seen["no_new_privileges"] == "1"
    assert seen["seccomp"] == "2", "a filter is in force (proc_pid_status(5))"
    assert not seen["account"], "a token of a service account is mounted"
    refused = "Read-only file system"
    assert {folder: seen["written"][folder] for folder in ("/", "/opt/vllm", "/models", "/models/hub")} == {
        "/": refused,
        "/opt/vllm": refused,
        "/models": refused,
        "/models/hub": refused,
    }
    assert {one for one, done in seen["written"].items() if done is True} == {"/tmp", "/dev/shm", "/cache"}  # noqa: S108
    assert seen["arguments"].split("\0")[1:4] == ["/opt/vllm/bin/vllm", "serve", "acme/tiny-llama"]
