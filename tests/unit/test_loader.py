"""The preload Job's pod: what it shares with the servers, and what it must not."""

from __future__ import annotations

from typing import Any

from vllm_operator.api.parse import parse
from vllm_operator.cluster import schema_errors
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.render import render

CA = {"name": "ca", "configMap": {"name": "company-ca"}}
MOUNT = {"name": "ca", "mountPath": "/etc/company", "readOnly": True}


def job(**spec: object) -> dict[str, Any]:
    resource = {"metadata": {"name": "x"}, "spec": {"model": {"source": "hf://Qwen/Qwen3-8B"}, **spec}}
    manifests = render(make_plan(parse(resource), Defaults("engine:v1", "cpu:v1", "operator:v1"), Facts()))
    found = next(one for one in manifests if one["kind"] == "Job")
    assert schema_errors(found) == []
    pod: dict[str, Any] = found["spec"]["template"]["spec"]
    return pod


def test_private_ca_reaches_the_hub_client() -> None:
    template = {"spec": {"volumes": [CA], "containers": [{"name": "vllm", "volumeMounts": [MOUNT]}]}}
    pod = job(podTemplate=template)
    assert CA in pod["volumes"]
    assert MOUNT in pod["containers"][0]["volumeMounts"]


def test_volumes_of_sidecars_stay_theirs() -> None:
    template = {"spec": {"volumes": [CA], "containers": [{"name": "side", "image": "s:1", "volumeMounts": [MOUNT]}]}}
    assert MOUNT not in job(podTemplate=template)["containers"][0]["volumeMounts"]


def test_changed_volumes_of_ours_are_not_taken_twice() -> None:
    template = {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}}
    names = [volume["name"] for volume in job(podTemplate=template)["volumes"]]
    assert names == ["tmp", "cache"]


def test_where_it_may_run_and_pull_from_is_shared() -> None:
    shared = {"tolerations": [{"key": "gpu", "operator": "Exists"}], "imagePullSecrets": [{"name": "pull"}]}
    pod = job(podTemplate={"spec": {**shared, "runtimeClassName": "nvidia"}})
    assert {key: pod[key] for key in shared} == shared
    assert "runtimeClassName" not in pod


def test_it_runs_where_and_as_whom_servers_run() -> None:
    spec = {"nodeSelector": {"zone": "a", "kept": None}, "securityContext": {"fsGroup": 2000, "runAsUser": None}}
    pod = job(podTemplate={"spec": spec})
    assert pod["nodeSelector"] == {"zone": "a"}
    assert pod["securityContext"]["fsGroup"] == 2000
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "runAsUser" not in pod["securityContext"]
    assert "nodeSelector" not in job()


def test_the_image_is_the_operators_own() -> None:
    for engine in ({}, {"image": "mirror/vllm:v0.32.0"}, {"image": "mine:v1", "command": ["serve"]}):
        container = job(engine=engine)["containers"][0]
        assert container["image"] == "operator:v1"
        assert container["command"] == ["vllm-operator", "fetch"]


def test_where_servers_mount_over_what_is_the_jobs_own_the_job_does_not() -> None:
    scratch = {"name": "scratch", "emptyDir": {}}
    paths = ["/tmp", "/models", "/scratch"]  # noqa: S108 - of a pod
    mounts = [{"name": "scratch", "mountPath": path} for path in paths]
    template = {"spec": {"volumes": [scratch], "containers": [{"name": "vllm", "volumeMounts": mounts}]}}
    mounted = [mount["mountPath"] for mount in job(podTemplate=template)["containers"][0]["volumeMounts"]]
    assert mounted == paths
