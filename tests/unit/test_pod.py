"""What a server pod carries around vLLM: probes, shutdown, environment, memory, and who may do what in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning import manifests_of, plan_of, pod_of, server_of, spec_of
from vllm_operator.api.quantity import to_bytes
from vllm_operator.engine.pod import draining_source

OWN_SERVER = {"image": "ghcr.io/acme/chat:1.0", "command": ["serve"]}


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    variables = server_of(spec)["env"]
    found = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}
    assert len(found) == len(variables), "a name that comes twice is refused by the API server"
    return found


def job_environment(spec: dict[str, Any]) -> dict[str, Any]:
    job = manifests_of(plan_of(spec))["Job"]["spec"]["template"]["spec"]["containers"][0]
    found = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in job["env"]}
    assert len(found) == len(job["env"])
    return found


@settings(max_examples=10)
@given(
    startup=st.integers(60, 86_400),
    drain=st.integers(0, 3600),
    pre_stop=st.integers(0, 300),
)
def test_times_add_up(startup: int, drain: int, pre_stop: int) -> None:
    lifecycle = {"startupTimeoutSeconds": startup, "drainSeconds": drain, "preStopSeconds": pre_stop}
    spec = spec_of(lifecycle=lifecycle)
    deployment = manifests_of(plan_of(spec))["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    server = pod["containers"][0]
    probe = server["startupProbe"]
    assert startup <= probe["periodSeconds"] * probe["failureThreshold"] < startup + probe["periodSeconds"]
    assert pod["terminationGracePeriodSeconds"] == pre_stop + drain + 20
    assert deployment["progressDeadlineSeconds"] > startup
    assert server["lifecycle"]["preStop"]["exec"]["command"][-2:] == [str(pre_stop), str(drain)]
    last = int(server["args"][server["args"].index("--shutdown-timeout") + 1])
    assert last == min(drain, 10)
    assert last + 8 < 20, "workers need up to 8 s to end"
    assert {"name": "VLLM_ENGINE_READY_TIMEOUT_S", "value": str(startup)} in server["env"]


def test_probes_ask_health_on_the_port_of_the_server() -> None:
    server = server_of(spec_of())
    for kind, period, failures in (("startupProbe", 1, 1800), ("readinessProbe", 5, 3), ("livenessProbe", 10, 6)):
        probe = server[kind]
        assert probe["httpGet"] == {"path": "/health", "port": "http"}
        assert (probe["periodSeconds"], probe["failureThreshold"], probe["timeoutSeconds"]) == (period, failures, 5)
    assert server["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]


def test_the_environment_of_a_server_that_is_offline() -> None:
    assert environment(spec_of()) == {
        "HOME": "/cache",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
        "HF_HOME": "/models",
        "HF_MODULES_CACHE": "/tmp/modules",  # noqa: S108 - a path in the pod
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "/etc/vllm-operator",
        "TMPDIR": "/tmp",  # noqa: S108
        "VLLM_CACHE_ROOT": "/cache/vllm",
        "VLLM_CONFIG_ROOT": "/cache/config",
        "VLLM_ENGINE_READY_TIMEOUT_S": "1800",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "NO_COLOR": "1",
    }


def test_the_token_goes_to_who_downloads_and_to_nobody_else() -> None:
    token = {"secretKeyRef": {"name": "hf-token", "key": "token"}}
    spec = spec_of(model={"source": "hf://Qwen/Qwen3-8B", "tokenSecretRef": {"name": "hf-token"}})
    assert "HF_TOKEN" not in environment(spec)
    assert job_environment(spec)["HF_TOKEN"] == token
    for cache in ({"preload": False}, {"ephemeral": True}):
        online = environment({**spec, "cache": cache})
        assert online["HF_TOKEN"] == token
        assert "HF_HUB_OFFLINE" not in online


def test_the_api_key_is_a_reference() -> None:
    found = environment(spec_of(auth={"apiKeySecretRef": {"name": "key"}}))
    assert found["VLLM_API_KEY"] == {"secretKeyRef": {"name": "key", "key": "api-key"}}


def test_the_users_variables_reach_server_and_preload_and_win_over_ours() -> None:
    env = [
        {"name": "HF_ENDPOINT", "value": "https://hub.example"},
        {"name": "NO_COLOR", "value": ""},
        {"name": "VLLM_NO_USAGE_STATS", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "EMPTY"},
    ]
    server, job = environment(spec_of(engine={"env": env})), job_environment(spec_of(engine={"env": env}))
    for found in (server, job):
        assert (found["HF_ENDPOINT"], found["NO_COLOR"], found["EMPTY"]) == ("https://hub.example", "", None)
        assert found["VLLM_NO_USAGE_STATS"] == {"configMapKeyRef": {"name": "c", "key": "k", "optional": False}}


def mounts(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in server_of(spec)["volumeMounts"]}


def volumes(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {volume["name"]: volume for volume in pod_of(spec)["volumes"]}


def test_a_preloaded_cache_is_read_only_and_kernels_are_written_beside_it() -> None:
    found = mounts(spec_of())
    assert found["/models"] == {"name": "cache", "mountPath": "/models", "subPath": "hub", "readOnly": True}
    assert found["/cache"]["subPath"].startswith("compiled/")
    assert volumes(spec_of())["cache"] == {"name": "cache", "persistentVolumeClaim": {"claimName": "chat-cache"}}


@pytest.mark.parametrize("cache", [{"preload": False}, {"ephemeral": True}])
def test_a_server_that_downloads_can_write_its_cache(cache: dict[str, Any]) -> None:
    assert mounts(spec_of(cache=cache))["/models"] == {"name": "cache", "mountPath": "/models", "subPath": "hub"}


def test_a_claim_or_an_image_with_the_model_is_mounted_read_only() -> None:
    facts = {"parameters": 7}
    claim = spec_of(model={"source": "pvc://trained/bot/v7", "maxLength": 4096, "facts": facts})
    source = {"claimName": "trained", "readOnly": True}
    assert volumes(claim)["model"] == {"name": "model", "persistentVolumeClaim": source}
    expected = {"name": "model", "mountPath": "/model", "readOnly": True, "subPath": "bot/v7"}
    assert mounts(claim)["/model"] == expected
    reference = f"reg.example/m/llama@sha256:{'0' * 64}"
    image = spec_of(model={"source": f"oci://{reference}", "maxLength": 4096, "facts": facts})
    assert volumes(image)["model"]["image"] == {"reference": reference, "pullPolicy": "IfNotPresent"}
    for spec in (claim, image):
        # Adapters come from the hub even so, and the root file system is read-only.
        assert mounts(spec)["/models"] == {"name": "cache", "mountPath": "/models", "subPath": "hub"}
        assert volumes(spec)["cache"] == {"name": "cache", "emptyDir": {}}


def test_servers_of_other_images_or_gpus_compile_elsewhere() -> None:
    paths = {
        mounts(spec)["/cache"]["subPath"]
        for spec in (
            spec_of(),
            spec_of(gpu={"product": "NVIDIA-H100-80GB-HBM3"}),
            spec_of(engine={"image": "vllm/vllm-openai:v0.31.0"}),
        )
    }
    assert len(paths) == 3
    assert mounts(spec_of(replicas=3))["/cache"] == mounts(spec_of())["/cache"]


@pytest.mark.parametrize(("count", "expected"), [(1, 1024), (2, 2048), (4, 2048), (8, 3072)])
def test_shared_memory_grows_with_the_workers_and_counts_as_memory(count: int, expected: int) -> None:
    spec = spec_of(gpu={"product": "NVIDIA-H100-80GB-HBM3", "count": count})
    shm = volumes(spec)["shm"]["emptyDir"]
    assert shm == {"medium": "Memory", "sizeLimit": f"{expected}Mi"}
    resources = server_of(spec)["resources"]
    assert to_bytes(resources["requests"]["memory"]) > to_bytes(shm["sizeLimit"]) + count * 2**30
    assert to_bytes(resources["limits"]["memory"]) >= to_bytes(resources["requests"]["memory"])
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == str(count)


def test_kv_cache_in_the_memory_of_the_node_lies_in_shared_memory_and_counts_as_memory() -> None:
    gpu = {"product": "NVIDIA-H100-80GB-HBM3", "count": 2}
    plain, offloading = spec_of(gpu=gpu), spec_of(gpu=gpu, engine={"kvOffload": {"size": "10.5Gi"}})
    assert volumes(offloading)["shm"]["emptyDir"]["sizeLimit"] == f"{2048 + 10752}Mi"
    for kind in ("requests", "limits"):
        before, after = (to_bytes(server_of(spec)["resources"][kind]["memory"]) for spec in (plain, offloading))
        assert abs(after - before - 10.5 * 2**30) <= 2**29  # each is rounded up to whole GiB


def test_a_server_without_a_gpu_asks_for_the_cache_that_it_is_given() -> None:
    cpu = {"model": {"source": "hf://Qwen/Qwen3-0.6B"}, "gpu": {"count": 0}}
    small, usual = (
        to_bytes(server_of({**cpu, "engine": engine})["resources"]["limits"]["memory"])
        for engine in ({"kvCacheMemory": "1Gi"}, {})
    )
    assert usual - small == 3 * 2**30


def test_a_server_without_a_gpu_asks_for_memory_for_weights_and_cache() -> None:
    spec = {"model": {"source": "hf://Qwen/Qwen3-0.6B"}, "gpu": {"count": 0}}
    resources = server_of(spec)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert to_bytes(resources["requests"]["memory"]) > 8 * 2**30
    assert "tolerations" not in pod_of(spec)
    assert "nodeSelector" not in pod_of(spec)


def test_a_server_finds_its_middleware_beside_what_the_user_has_python_find() -> None:
    engine = {"env": [{"name": "PYTHONPATH", "value": "/opt/plugins"}]}
    found = environment(spec_of(engine=engine))
    assert found["PYTHONPATH"] == "/etc/vllm-operator:$(USER_PYTHONPATH)"
    assert found["USER_PYTHONPATH"] == "/opt/plugins"
    order = [variable["name"] for variable in server_of(spec_of(engine=engine))["env"]]
    assert order.index("USER_PYTHONPATH") < order.index("PYTHONPATH"), "only what comes before is expanded"
    assert environment(spec_of(engine={**OWN_SERVER, **engine}))["PYTHONPATH"] == "/opt/plugins"
    assert job_environment(spec_of(engine=engine))["PYTHONPATH"] == "/opt/plugins"


def test_the_hook_and_the_middleware_are_one_file_out_of_an_annotation() -> None:
    template = manifests_of(plan_of(spec_of()))["Deployment"]["spec"]["template"]
    server = template["spec"]["containers"][0]
    (item,) = volumes(spec_of())["draining"]["downwardAPI"]["items"]
    (mount,) = (one for one in server["volumeMounts"] if one["name"] == "draining")
    annotation = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
    assert template["metadata"]["annotations"][annotation] == draining_source()
    assert f"{mount['mountPath']}/{item['path']}" in server["lifecycle"]["preStop"]["exec"]["command"]
    assert item["path"] == f"{server['args'][server['args'].index('--middleware') + 1].partition('.')[0]}.py"
    assert mount["mountPath"] in environment(spec_of())["PYTHONPATH"]


def test_an_own_server_waits_only() -> None:
    own = server_of(spec_of(engine=OWN_SERVER, lifecycle={"preStopSeconds": 7}))
    assert "--middleware" not in own.get("args", [])
    assert "draining" not in volumes(spec_of(engine=OWN_SERVER))
    assert own["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert "lifecycle" not in server_of(spec_of(engine=OWN_SERVER, lifecycle={"preStopSeconds": 0}))


def test_an_own_server_is_told_what_sizing_chose_and_gets_no_flags() -> None:
    engine = {"image": "mine:v1", "command": ["serve"]}
    found = environment(spec_of(engine=engine))
    told = {
        "MODEL": "Qwen/Qwen3-8B",
        "MODEL_REVISION": "main",
        "SERVED_MODEL_NAME": "Qwen/Qwen3-8B",
        "TENSOR_PARALLEL_SIZE": "1",
        "PIPELINE_PARALLEL_SIZE": "1",
        "MAX_MODEL_LEN": "16384",
        "GPU_MEMORY_UTILIZATION": "0.9",
        "PORT": "8000",
    }
    assert {name: found.get(name) for name in told} == told
    assert not set(told) & set(environment(spec_of()))
    mine = {**engine, "env": [{"name": "MODEL", "value": "/my/own"}]}
    assert environment(spec_of(engine=mine))["MODEL"] == "/my/own"
    on_cpu = environment({"model": {"source": "pvc://models/llama"}, "gpu": {"count": 0}, "engine": engine})
    assert on_cpu["MODEL"] == "/model"
    assert not {"MODEL_REVISION", "MAX_MODEL_LEN", "GPU_MEMORY_UTILIZATION"} & set(on_cpu)
