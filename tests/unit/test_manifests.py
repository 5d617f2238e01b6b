"""What is installed: the least rights, a pod that may run anywhere, one version, an image that can be built."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import operator_process
from vllm_operator import config, kinds, watch
from vllm_operator.api import GROUP, PLURAL
from vllm_operator.app import process
from vllm_operator.cluster import schema_errors

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "vllm-operator"
# Always planned under one name, so only the garbage collector ever removes them.
NEVER_PRUNED = {"serviceaccounts", "services", "deployments"}


def _one(kind: str, name: str = "vllm-operator") -> dict[str, Any]:
    found = [one for one in operator_process.manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1
    return found[0]


def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = _one("ClusterRole")["rules"]
    return rules


def _verbs() -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in _rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def _container() -> dict[str, Any]:
    container: dict[str, Any] = _one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    "manifest", operator_process.manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_every_object_is_of_its_kind(manifest: dict[str, Any]) -> None:
    assert schema_errors(manifest) == []


def test_rights_are_those_that_the_kinds_need() -> None:
    watched = {"list", "watch"}
    children = {
        (kind.group, kind.plural): {*watched, "create", "get", "patch"} | ({"delete"} - _unpruned(kind.plural))
        for kind in kinds.CHILDREN
    }
    others = {
        ("", "events"): {"create", "list", "patch"},
        ("", "nodes"): watched,
        ("", "pods"): watched,
        ("", "pods/log"): {"get"},
        (GROUP, PLURAL): {*watched, "get"},
        (GROUP, f"{PLURAL}/status"): {"patch"},
    }
    assert _verbs() == children | others


def _unpruned(plural: str) -> set[str]:
    return {"delete"} if plural in NEVER_PRUNED else set()


def test_rights_name_everything_and_are_in_order() -> None:
    named = [(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in _rules()]
    assert named == sorted(named)
    assert all(verbs == sorted(verbs) for _, _, verbs in named)
    assert "*" not in str(named)
    assert "secrets" not in str(named)


def test_every_rule_says_why() -> None:
    lines = (ROOT / "manifests" / "install" / "rules.yaml").read_text().splitlines()
    rules = [line for line in lines if line.startswith("- ")]
    assert len(rules) == len(_rules())
    assert all(re.search(r"  # \S", line) for line in rules)


def test_the_pod_meets_the_restricted_standard_and_more() -> None:
    spec, container = _one("Deployment")["spec"]["template"]["spec"], _container()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_the_probes_ask_where_the_operator_answers() -> None:
    container = _container()
    settings = config.load(_variables(), {})
    assert container["ports"] == [{"name": "health", "containerPort": settings.health_port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def _variables() -> dict[str, str]:
    """Variables of the container, but for the file, which is elsewhere here."""
    variables = {one["name"]: one["value"] for one in _container()["env"]}
    assert config.unknown_variables(variables) == []
    return {name: value for name, value in variables.items() if name != "VLLM_OPERATOR_CONFIG"}


def test_the_file_of_settings_is_where_the_operator_looks_for_it(tmp_path: Path) -> None:
    variable = next(one["value"] for one in _container()["env"] if one["name"] == "VLLM_OPERATOR_CONFIG")
    pod = _one("Deployment")["spec"]["template"]["spec"]
    (source,) = pod["volumes"][0]["projected"]["sources"]
    ((name, text),) = _one("ConfigMap", source["configMap"]["name"])["data"].items()
    assert variable == f"{_container()['volumeMounts'][0]['mountPath']}/{name}"
    (tmp_path / name).write_text(text)
    assert config.load({"VLLM_OPERATOR_CONFIG": str(tmp_path / name)}, {}).workers == 16
    assert pod["enableServiceLinks"] is False


# Settings that have a chart value of their own, or that a pod has no use for.
_OF_THE_CHART = {
    "config",
    "context",
    "cpu_image",
    "engine_image",
    "fetch_image",
    "health_port",
    "kubeconfig",
    "leader_elect",
    "lease_name",
    "lease_namespace",
    "log_level",
    "namespace",
    "tables",
}


def test_the_chart_takes_every_other_setting_and_nothing_else() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["config"]["properties"]) == {one.name for one in config.rules()} - _OF_THE_CHART


def test_one_of_two_acts_and_the_other_takes_over() -> None:
    spec = _one("Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert {"name": "VLLM_OPERATOR_LEADER_ELECT", "value": "true"} in _container()["env"]
    (apart,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert apart["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    budget = _one("PodDisruptionBudget")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (apart["podAffinityTerm"]["labelSelector"], budget["selector"], spec["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert budget["minAvailable"] == 1


def test_the_lease_is_the_only_one_that_may_be_touched() -> None:
    settings = config.OperatorConfig()
    assert _one("Role", "vllm-operator-lease")["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [settings.lease_name],
            "verbs": ["get", "update"],
        },
    ]
    namespaces = {
        one["metadata"]["namespace"]
        for one in (_one("Role", "vllm-operator-lease"), _one("RoleBinding", "vllm-operator-lease"), _one("Deployment"))
    }
    assert namespaces == {operator_process.NAMESPACE}


def test_within_one_namespace_nothing_beyond_it_is_granted() -> None:
    documents = list(yaml.safe_load_all((ROOT / "manifests" / "install-namespaced.yaml").read_text()))
    assert [error for one in documents for error in schema_errors(one)] == []
    assert [one["kind"] for one in documents if "namespace" not in one["metadata"]] == ["CustomResourceDefinition"]
    assert {one["metadata"]["namespace"] for one in documents if "namespace" in one["metadata"]} == {"models"}
    roles = {one["metadata"]["name"]: one["rules"] for one in documents if one["kind"] == "Role"}
    assert roles["vllm-operator"] == [one for one in _rules() if one["resources"] != ["nodes"]]
    assert roles["vllm-operator-lease"] == _one("Role", "vllm-operator-lease")["rules"]
    (deployment,) = [one for one in documents if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    served, *others = container["env"]
    assert served == {
        "name": "VLLM_OPERATOR_NAMESPACE",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
    }
    assert others == _container()["env"]


def test_the_pod_is_given_the_time_that_its_end_takes() -> None:
    grace = _one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    to_give_back_the_lease = config.OperatorConfig().lease_renew_seconds / 3
    assert max(process.DRAIN_SECONDS + to_give_back_the_lease, watch.END_SECONDS) < grace


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert _container()["image"] == f"{values['image']['repository']}:{version}"
    assert f"--tag vllm-operator:{version}" in (ROOT / "Dockerfile").read_text()


def test_the_schema_of_the_chart_knows_exactly_its_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    assert set(schema["properties"]["image"]["properties"]) == set(values["image"])


def _instructions(word: str) -> list[list[str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{word} ")]


def _sources() -> set[str]:
    """What the Dockerfile copies from the checkout."""
    return {one for words in _instructions("COPY") if not words[0].startswith("--from") for one in words[:-1]}


def test_the_image_copies_what_exists_and_is_sent() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert _sources() == sent
    assert [one for one in sorted(_sources()) if not (ROOT / one).exists()] == []


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    installs = [" ".join(words) for words in _instructions("RUN") if "install" in words]
    commands = [part for line in installs for part in line.split("&&") if " install" in part]
    for command in commands:
        locked = re.search(r"--require-hashes --requirement (requirements/\S+)", command)
        assert locked or "--no-deps --no-index /dist/*.whl" in command, command
        if locked:
            assert _is_locked(ROOT / locked[1])
    assert any("requirements/runtime.txt" in command for command in commands)


def _is_locked(path: Path) -> bool:
    """Every requirement has one version and a hash."""
    requirements = re.split(r"\n(?=\S)", path.read_text().strip())
    return all("==" in one and "--hash=sha256:" in one for one in requirements)


def test_the_image_runs_as_the_user_of_the_pod_on_a_pinned_base() -> None:
    user = _one("Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert _instructions("USER") == [[f"{user}:{user}"]]
    assert _instructions("ARG") == [["PYTHON_IMAGE=python:3.11.14-slim-bookworm"]]
    assert {words[0] for words in _instructions("FROM")} == {"${PYTHON_IMAGE}"}
    assert _container()["args"] == ["run"]
