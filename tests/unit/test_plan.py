"""What is planned for particular wishes, and what of them is held back or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from localcluster.nodes import gpu_nodes
from planning import fleet_offers, manifests_of, plan_of, pod_of, server_of, spec_of
from vllm_operator.api.quantity import to_bytes
from vllm_operator.inventory import Inventory, gpus_of_node
from vllm_operator.plan.cache import model_digest
from vllm_operator.plan.types import Facts, Inspection, LiveClaim, LiveWorkload, Plan
from vllm_operator.sizing.types import Offer

H100 = {"product": "NVIDIA-H100-80GB-HBM3"}
AUTOSCALING = {"minReplicas": 2, "maxReplicas": 5}


def manifest(kind: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a spec
    return manifests_of(accepted(spec_of(**fields)))[kind]


def accepted(spec: dict[str, Any], facts: Facts | None = None) -> Plan:
    plan = plan_of(spec, facts)
    assert plan.refusal is None, plan.refusal
    return plan


def refusal(spec: dict[str, Any], facts: Facts | None = None) -> tuple[str, str, str]:
    found = plan_of(spec, facts).refusal
    assert found is not None
    return found.condition, found.reason, found.message


def on_nodes(*nodes: dict[str, Any], previous: str = "") -> Facts:
    inventory = Inventory()
    for one in nodes:
        inventory.see(one)
    return Facts(offers=inventory.offers(), previous_product=previous)


def labelled(product: str, memory: str = "", count: int = 8) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, **({"nvidia.com/gpu.memory": memory} if memory else {})}
    allocatable = {"nvidia.com/gpu": str(count)}
    return {"metadata": {"name": product, "labels": labels}, "status": {"allocatable": allocatable}}


# --- which children there are


def test_the_children_of_a_plain_resource_in_the_order_in_which_they_are_applied() -> None:
    kinds = list(manifests_of(plan_of(spec_of())))
    assert kinds == ["ServiceAccount", "PersistentVolumeClaim", "Job", "Service", "Deployment"]


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"autoscaling": AUTOSCALING}, {"HorizontalPodAutoscaler", "PodDisruptionBudget"}),
        ({"autoscaling": AUTOSCALING, "suspend": True}, {"PodDisruptionBudget"}),
        ({"autoscaling": {"maxReplicas": 1}}, {"HorizontalPodAutoscaler"}),
        ({"replicas": 2}, {"PodDisruptionBudget"}),
        ({"auth": {"apiKeySecretRef": {"name": "k"}}}, {"NetworkPolicy"}),
        ({"networkPolicy": {}}, {"NetworkPolicy"}),
        ({"monitoring": {"podMonitor": True, "rules": True}}, {"PodMonitor", "PrometheusRule"}),
        ({"monitoring": {"dashboard": True}}, {"ConfigMap"}),
    ],
)
def test_wishes_bring_children(fields: dict[str, Any], more: set[str]) -> None:
    assert set(manifests_of(plan_of(spec_of(**fields)))) - set(manifests_of(plan_of(spec_of()))) == more


@pytest.mark.parametrize(
    ("cache", "gone"),
    [
        ({"ephemeral": True}, {"PersistentVolumeClaim", "Job"}),
        ({"claimName": "models"}, {"PersistentVolumeClaim"}),
        ({"preload": False}, {"Job"}),
    ],
)
def test_caches_that_need_less(cache: dict[str, Any], gone: set[str]) -> None:
    assert set(manifests_of(plan_of(spec_of()))) - set(manifests_of(plan_of(spec_of(cache=cache)))) == gone


# --- the cache


def storage(cache: dict[str, Any], live: LiveClaim | None) -> tuple[dict[str, Any], str]:
    plan = accepted(spec_of(cache=cache), Facts(offers=fleet_offers(), claim=live))
    return manifests_of(plan)["PersistentVolumeClaim"]["spec"], plan.storage_problem


def claim_spec(size: str, storage_class: str | None = None, mode: str = "ReadWriteMany") -> dict[str, Any]:
    named = {"storageClassName": storage_class} if storage_class is not None else {}
    return {"accessModes": [mode], **named, "resources": {"requests": {"storage": size}}}


BOUND = LiveClaim("50Gi", "slow", "ReadWriteMany", bound=True)
OWNED = LiveClaim("50Gi", "slow", "ReadWriteMany", bound=True, owns_class=True)
CLAIM_SOURCE = {"source": "pvc://weights/qwen", "facts": {"parameters": 8.2}, "maxLength": 16384}
PENDING = LiveClaim("50Gi", None, "ReadWriteMany", bound=False)


@pytest.mark.parametrize(
    ("cache", "live", "expected", "said"),
    [
        ({"size": "60Gi"}, None, claim_spec("60Gi"), ""),
        ({"size": "60Gi", "storageClassName": ""}, None, claim_spec("60Gi", ""), ""),
        ({"size": "60Gi", "storageClassName": "fast"}, None, claim_spec("60Gi", "fast"), ""),
        ({"size": "60Gi"}, BOUND, claim_spec("60Gi"), ""),
        ({"size": "60Gi"}, OWNED, claim_spec("60Gi", "slow"), ""),
        ({"size": "50Gi"}, BOUND, claim_spec("50Gi"), ""),
        ({"size": "53687091200"}, BOUND, claim_spec("50Gi"), ""),
        ({"size": "60Gi"}, PENDING, claim_spec("50Gi"), ""),
        ({}, BOUND, claim_spec("50Gi"), ""),
        ({"size": "40Gi"}, BOUND, claim_spec("50Gi"), "size stays 50Gi (asked: 40Gi"),
        ({"storageClassName": "fast"}, BOUND, claim_spec("50Gi", "slow"), "storageClassName stays 'slow'"),
        ({"accessMode": "ReadWriteOnce"}, BOUND, claim_spec("50Gi"), "accessMode stays ReadWriteMany"),
        ({"storageClassName": "slow"}, BOUND, claim_spec("50Gi", "slow"), ""),
    ],
)
def test_a_claim_changes_only_as_kubernetes_lets_it(
    cache: dict[str, Any], live: LiveClaim | None, expected: dict[str, Any], said: str
) -> None:
    found, problem = storage(cache, live)
    assert found == expected
    assert problem.startswith(said)
    assert bool(problem) == bool(said)


def test_a_blocked_change_keeps_nothing_else_from_being_carried_out() -> None:
    plan = accepted(spec_of(cache={"storageClassName": "fast"}, replicas=3), Facts(offers=fleet_offers(), claim=BOUND))
    assert plan.storage_problem.endswith("undo it, or name a new claim in cache.claimName")
    assert manifests_of(plan)["Deployment"]["spec"]["replicas"] == 3


def test_the_size_of_a_cache_follows_what_is_downloaded() -> None:
    def size(**engine: Any) -> int:  # noqa: ANN401 - fields of the engine
        spec = manifest("PersistentVolumeClaim", engine=engine)["spec"]
        return to_bytes(spec["resources"]["requests"]["storage"])

    adapters = [{"name": name, "source": f"hf://acme/{name}"} for name in ("a", "b")]
    draft = {"method": "eagle3", "model": "hf://acme/draft"}
    gib = 2**30
    assert 15.3 * 1.1 * gib < size() - 10 * gib < 15.3 * 1.1 * gib + 2 * gib
    assert size(lora={"adapters": adapters}) == size() + 4 * gib
    assert size(speculative=draft) == size() + 16 * gib
    assert size(speculative={**draft, "method": "draft_model"}) == size() + 16 * gib
    assert size(speculative={}) == size()
    known = size(speculative={"method": "draft_model", "model": "hf://Qwen/Qwen3-0.6B"}) - size()
    assert gib <= known <= 3 * gib  # 1.12 GiB, a tenth, and what rounding adds
    guessed = size(speculative={"method": "draft_model", "model": "hf://acme/draft-3b"}) - size()
    assert 6 * gib <= guessed <= 8 * gib


def test_a_cache_belongs_to_its_resource_only_if_it_is_to_go_with_it() -> None:
    assert "ownerReferences" not in manifest("PersistentVolumeClaim")["metadata"]
    owned = manifest("PersistentVolumeClaim", cache={"reclaimPolicy": "Delete"})["metadata"]
    assert [owner["controller"] for owner in owned["ownerReferences"]] == [True]


COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"
PINNED = {"source": "hf://Qwen/Qwen3-8B", "revision": COMMIT, "maxLength": 16384}
HOLDS = "vllm-operator.dev/holds"
BRANCH = {**PINNED, "revision": "main"}
ADAPTER = {"lora": {"adapters": [{"name": "sql", "source": "hf://acme/sql"}]}}


def digest_of(spec: dict[str, Any]) -> str:
    """Of the files that servers need."""
    return model_digest(accepted(spec).resource.spec)


def holds(commit: str = "", claim: LiveClaim | None = None, **fields: Any) -> tuple[str | None, bool]:  # noqa: ANN401
    """What the claim says that it holds, and whether servers rely on it."""
    facts = Facts(offers=fleet_offers(), claim=claim, commit=commit)
    plan = accepted(spec_of(**{"model": PINNED, **fields}), facts)
    found = manifests_of(plan).get("PersistentVolumeClaim", {}).get("metadata", {}).get("annotations", {}).get(HOLDS)
    return found, plan.held


def test_a_claim_says_what_it_holds_once_that_was_brought_and_its_next_resource_relies_on_it() -> None:
    assert holds() == (None, False)
    digest, held = holds(commit=COMMIT)
    assert digest == digest_of(spec_of(model=PINNED))
    assert held
    filled = replace(BOUND, holds=digest)
    assert holds(claim=filled) == (digest, True), "nobody remembers who filled it"
    assert holds(claim=filled, model={**PINNED, "revision": COMMIT[::-1]}) == (None, False)
    assert holds(claim=filled, model={**PINNED, "files": {"exclude": ["*.bin"]}}) == (None, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": BRANCH},
        {"engine": ADAPTER},
        {"cache": {"reclaimPolicy": "Delete"}},
        {"cache": {"claimName": "models"}},
        {"cache": {"preload": False}},
        {"cache": {"ephemeral": True}},
    ],
    ids=["branch", "adapter", "goes with its resource", "a user's claim", "no preload", "no claim"],
)
def test_a_claim_says_nothing_of_what_may_change_or_of_what_could_not_be_looked_at_again(
    fields: dict[str, Any],
) -> None:
    digest = digest_of(spec_of(**{"model": PINNED, **fields}))
    assert holds(commit=COMMIT, claim=replace(BOUND, holds=digest), **fields) == (None, False)


@pytest.mark.parametrize("asked", ["ReadWriteOnce", "ReadWriteMany"])
def test_a_claim_of_one_node_says_nothing_whatever_is_asked_for(asked: str) -> None:
    cache = {"accessMode": asked}
    digest = digest_of(spec_of(model=PINNED, cache=cache))
    live = replace(BOUND, access_mode="ReadWriteOnce", holds=digest)
    assert holds(commit=COMMIT, claim=live, cache=cache) == (None, False)


def preload_of(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a spec
    return manifest("Job", **fields)


def test_the_preload_downloads_everything_that_servers_read_offline() -> None:
    adapters = [{"name": "sql", "source": "hf://acme/sql"}]
    engine = {"lora": {"adapters": adapters}, "speculative": {"method": "eagle3", "model": "hf://acme/draft"}}
    files = {"include": ["*.json", "*.safetensors"], "exclude": ["original/*"]}
    model = {"source": "hf://Qwen/Qwen3-8B", "revision": "v1", "files": files, "maxLength": 4096}
    pod = preload_of(model=model, engine=engine, gpu=H100)["spec"]["template"]["spec"]
    steps = [*pod["initContainers"], *pod["containers"]]
    assert [step["command"] for step in steps] == [["vllm-operator", "fetch"]] * 3
    assert [step["args"] for step in steps[:2]] == [["hf://acme/draft"], ["hf://acme/sql"]]
    patterns = ["--include", "*.json", "--include", "*.safetensors", "--exclude", "original/*"]
    assert steps[2]["args"] == ["hf://Qwen/Qwen3-8B", "--revision", "v1", *patterns]
    for step in steps:
        assert {"name": "cache", "mountPath": "/models", "subPath": "hub"} in step["volumeMounts"]


def test_another_download_is_another_job_and_scaling_is_not() -> None:
    def name(**fields: Any) -> str:  # noqa: ANN401
        return str(preload_of(**fields)["metadata"]["name"])

    model = {"source": "hf://Qwen/Qwen3-8B", "maxLength": 16384}
    same: list[dict[str, Any]] = [
        {},
        {"replicas": 3},
        {"suspend": True},
        {"service": {"port": 81}},
        {"engine": {"maxSequences": 8}},
    ]
    assert {name(**fields) for fields in same} == {name()}
    other: list[dict[str, Any]] = [
        {"model": {**model, "revision": "v2"}},
        {"model": {**model, "files": {"exclude": []}}},
        {"engine": {"env": [{"name": "HF_ENDPOINT", "value": "https://hub"}]}},
        {"cache": {"claimName": "models"}},
    ]
    assert len({name(), *(name(**fields) for fields in other)}) == 5


def test_the_digest_of_the_model_says_when_servers_need_other_files() -> None:
    def digest(**fields: Any) -> str:  # noqa: ANN401
        return digest_of(spec_of(**fields))

    model = {"source": "hf://Qwen/Qwen3-8B", "maxLength": 16384}
    assert digest(engine={"env": [{"name": "HF_ENDPOINT", "value": "x"}]}) == digest()
    assert digest(model={**model, "maxLength": 8192}) == digest()
    assert digest(model={**model, "revision": "v2"}) != digest()


def test_a_volume_of_one_node_is_made_where_the_servers_run() -> None:
    """On a node that servers are kept from, or cannot get to, it would keep them waiting for ever."""
    where = ("nodeSelector", "tolerations", "affinity")
    zone: dict[str, Any] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    templates: list[dict[str, Any]] = [
        {},
        {"nodeSelector": {"pool": "gpu"}, "affinity": zone},
        {"nodeSelector": {"nvidia.com/gpu.product": None}, "tolerations": [{"operator": "Exists"}]},
    ]
    for template in templates:
        spec = spec_of(cache={"accessMode": "ReadWriteOnce"}, podTemplate={"spec": template})
        job = manifests_of(accepted(spec))["Job"]["spec"]["template"]["spec"]
        assert {key: job.get(key) for key in where} == {key: pod_of(spec).get(key) for key in where}
    many = preload_of(podTemplate={"spec": templates[1]})["spec"]["template"]["spec"]
    assert many["nodeSelector"] == {"pool": "gpu"}, "what is asked for, and no GPU"
    assert "tolerations" not in many


# --- replicas, rollouts, scaling


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 1)),
        ({"rollout": {"spareGPU": True}}, (1, 0)),
        ({"rollout": {"spareGPU": True}, "cache": {"accessMode": "ReadWriteOnce"}}, (0, 1)),
        ({"rollout": {"spareGPU": True}, "cache": {"ephemeral": True}}, (1, 0)),
    ],
)
def test_rollouts_cannot_deadlock(fields: dict[str, Any], expected: tuple[int, int]) -> None:
    """Without a spare GPU, or on a volume of one node, a surge pod would wait for ever."""
    update = manifest("Deployment", **fields)["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxSurge"], update["maxUnavailable"]) == expected


SPARE = {"rollout": {"spareGPU": True}}
OF_ONE_NODE = LiveClaim("50Gi", "slow", "ReadWriteOnce", bound=True)


@pytest.mark.parametrize(
    ("fields", "facts", "expected"),
    [
        ({}, Facts(claim=BOUND), (1, 0)),
        ({}, Facts(claim=OF_ONE_NODE), (0, 1)),
        ({"cache": {"accessMode": "ReadWriteOnce"}}, Facts(claim=BOUND), (1, 0)),
        ({"cache": {"claimName": "mine"}}, Facts(), (1, 0)),
        ({"cache": {"claimName": "mine"}}, Facts(modes=("ReadWriteOnce",)), (0, 1)),
        ({"cache": {"claimName": "mine"}}, Facts(modes=("ReadWriteOncePod",)), (0, 1)),
        ({"cache": {"claimName": "mine"}}, Facts(modes=("ReadWriteOnce", "ReadWriteMany")), (1, 0)),
        ({"cache": {"claimName": "mine"}}, Facts(claim=OF_ONE_NODE), (1, 0)),
        ({"model": CLAIM_SOURCE}, Facts(modes=("ReadWriteOnce",)), (0, 1)),
        ({"model": CLAIM_SOURCE}, Facts(modes=("ReadOnlyMany",)), (1, 0)),
        ({"cache": {"ephemeral": True}}, Facts(claim=OF_ONE_NODE), (1, 0)),
    ],
)
def test_what_the_claim_is_decides_and_not_what_is_asked_for(
    fields: dict[str, Any], facts: Facts, expected: tuple[int, int]
) -> None:
    plan = accepted(spec_of(**SPARE, **fields), replace(facts, offers=fleet_offers()))
    update = manifests_of(plan)["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxSurge"], update["maxUnavailable"]) == expected


@pytest.mark.parametrize(
    ("fields", "facts", "way_out"),
    [
        ({}, Facts(claim=OF_ONE_NODE), "claim chat-cache, and all 3 replicas"),
        ({"cache": {"claimName": "mine"}}, Facts(modes=("ReadWriteOnce",)), "claim mine, and all 3 replicas"),
        ({"model": CLAIM_SOURCE}, Facts(modes=("ReadWriteOnce",)), "a ReadWriteMany claim in model.source"),
    ],
)
def test_replicas_on_a_claim_of_one_node_are_warned_of(fields: dict[str, Any], facts: Facts, way_out: str) -> None:
    crowd = accepted(spec_of(replicas=3, **fields), replace(facts, offers=fleet_offers()))
    (warning,) = [one for one in crowd.warnings if one.reason == "SingleNodeClaim"]
    assert way_out in warning.message
    alone = accepted(spec_of(**fields), replace(facts, offers=fleet_offers()))
    assert "SingleNodeClaim" not in str(alone.warnings)


@pytest.mark.parametrize(
    ("fields", "live", "expected"),
    [
        ({"autoscaling": AUTOSCALING}, None, None),
        ({"autoscaling": AUTOSCALING}, (7, True), 7),
        ({"autoscaling": AUTOSCALING}, (7, False), None),
        ({"autoscaling": AUTOSCALING}, (0, True), 2),
        ({"autoscaling": AUTOSCALING}, (0, False), 2),
        ({"autoscaling": AUTOSCALING, "suspend": True}, (7, False), None),
        ({"replicas": 3}, (7, True), None),
    ],
)
def test_replicas_change_hands_without_falling_to_one(
    fields: dict[str, Any], live: tuple[int, bool] | None, expected: int | None
) -> None:
    workload = LiveWorkload(live[0], owns_replicas=live[1], model_digest="") if live else None
    plan = accepted(spec_of(**fields), Facts(offers=fleet_offers(), workload=workload))
    assert plan.handover_replicas == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"vllm_num_requests_running": "179", "vllm_num_requests_waiting": "5"}),
        ({"target": 100}, {"vllm_num_requests_running": "100", "vllm_num_requests_waiting": "5"}),
        ({"metric": "Waiting"}, {"vllm_num_requests_waiting": "5"}),
        ({"metric": "Waiting", "target": 2}, {"vllm_num_requests_waiting": "2"}),
        ({"metric": "KVCacheUsage"}, {"vllm_kv_cache_usage_perc": "800m"}),
        ({"metric": "KVCacheUsage", "target": 65}, {"vllm_kv_cache_usage_perc": "650m"}),
    ],
)
def test_what_the_autoscaler_follows(asked: dict[str, Any], expected: dict[str, str]) -> None:
    metrics = manifest("HorizontalPodAutoscaler", autoscaling={"maxReplicas": 3, **asked})["spec"]["metrics"]
    assert {one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"] for one in metrics} == expected
    assert {one["type"] for one in metrics} == {"Pods"}
    assert {one["pods"]["target"]["type"] for one in metrics} == {"AverageValue"}


def test_the_autoscaler_behaves_as_asked_and_as_usual_otherwise() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60}, "scaleUp": {"policies": []}}
    found = manifest("HorizontalPodAutoscaler", autoscaling={**AUTOSCALING, "behavior": behavior})["spec"]
    assert (found["minReplicas"], found["maxReplicas"]) == (2, 5)
    assert found["behavior"] == {
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": []},
        "scaleDown": {
            "stabilizationWindowSeconds": 60,
            "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
        },
    }


# --- network


def test_the_service() -> None:
    service = manifest("Service", service={"type": "NodePort", "port": 8080, "annotations": {"a": "b"}})
    assert service["spec"]["type"] == "NodePort"
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["name"]) == (8080, "http", "http")
    assert service["metadata"]["annotations"]["a"] == "b"
    forged = manifest("Service", service={"annotations": {"vllm-operator.dev/resource": "other"}})
    assert forged["metadata"]["annotations"]["vllm-operator.dev/resource"] == "chat"


@pytest.mark.parametrize("peers", [[], [{"ipBlock": {"cidr": "10.0.0.0/8"}}]])
def test_who_may_come_in(peers: list[dict[str, Any]]) -> None:
    policy = manifest("NetworkPolicy", networkPolicy={"from": peers})["spec"]
    rule = {"from": peers or [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8000}]}
    assert policy["ingress"] == [rule]
    assert policy["policyTypes"] == ["Ingress"]


# --- monitoring


def test_queries_select_the_series_of_one_service() -> None:
    monitoring = {"rules": True, "dashboard": True, "podMonitor": True}
    model = {"source": "hf://Qwen/Qwen3-8B", "maxLength": 4096, "servedNames": ["q", "other"]}
    found = manifests_of(accepted(spec_of(model=model, monitoring=monitoring)))
    (group,) = found["PrometheusRule"]["spec"]["groups"]
    (board,) = (json.loads(text) for text in found["ConfigMap"]["data"].values())
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for query in [*(rule["expr"] for rule in group["rules"]), *panels]:
        assert "$SERIES" not in query
        assert query.count("vllm:") == query.count('{namespace="team-a",model_name="q"}')
    assert found["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] == "http"


# --- which GPU


def gpu_of(spec: dict[str, Any], facts: Facts | None = None) -> tuple[str, dict[str, str] | None, list[str]]:
    """Product of the choice, where its pods may run, and what they ask for."""
    plan = accepted(spec, facts)
    assert plan.sizing is not None
    assert plan.sizing.gpu is not None
    pod = manifests_of(plan)["Deployment"]["spec"]["template"]["spec"]
    asked = [name for name in pod["containers"][0]["resources"]["limits"] if "/" in name]
    return plan.sizing.gpu.product, pod.get("nodeSelector"), asked


def test_the_cheapest_of_the_clusters_own_gpus_is_taken_and_kept() -> None:
    nodes = [*gpu_nodes("NVIDIA-H100-80GB-HBM3", 8, 1), *gpu_nodes("NVIDIA-A100-SXM4-40GB", 8, 1, "a")]
    spec = spec_of(gpu={})
    assert gpu_of(spec, on_nodes(*nodes))[0] == "NVIDIA-A100-SXM4-40GB"
    assert gpu_of(spec, on_nodes(*nodes, previous="NVIDIA-H100-80GB-HBM3"))[0] == "NVIDIA-H100-80GB-HBM3"
    assert gpu_of(spec, on_nodes(*nodes, previous="NVIDIA-L4"))[0] == "NVIDIA-A100-SXM4-40GB"


def test_without_a_look_at_the_nodes_the_table_is_asked_and_an_earlier_choice_is_kept() -> None:
    spec = spec_of(gpu={})
    plan = accepted(spec, Facts(offers=None))
    assert plan.sizing is not None
    assert plan.sizing.gpu is not None
    (warning,) = [one for one in plan.warnings if one.reason == "NodesUnknown"]
    assert f"{plan.sizing.gpu.product} is a guess from the GPU table; name gpu.product" in warning.message
    kept = accepted(spec, Facts(offers=None, previous_product="NVIDIA-H100-80GB-HBM3"))
    assert gpu_of(spec, Facts(offers=None, previous_product="NVIDIA-H100-80GB-HBM3"))[0] == "NVIDIA-H100-80GB-HBM3"
    assert "NVIDIA-H100-80GB-HBM3 is a guess" in str(kept.warnings)
    named = accepted(spec_of(gpu={"product": "NVIDIA-L4"}), Facts(offers=None))
    assert "NodesUnknown" not in str(named.warnings)


def test_the_reason_of_a_choice_outlives_the_first_pass() -> None:
    spec = spec_of(gpu={})
    nodes = [labelled("NVIDIA-L4"), labelled("NVIDIA-A100-SXM4-40GB"), labelled(H100["product"])]

    def explanation(previous: str) -> str:
        sizing = accepted(spec, on_nodes(*nodes, previous=previous)).sizing
        assert sizing is not None
        return sizing.explanation

    first = explanation("")
    assert "Chosen among" in first
    assert explanation(str(gpu_of(spec, on_nodes(*nodes))[0])) == first
    assert "Kept from an earlier choice" in explanation(H100["product"])


def test_an_earlier_choice_is_left_when_it_fits_no_more() -> None:
    nodes = [*gpu_nodes("NVIDIA-L4", 4, 1), *gpu_nodes("NVIDIA-H100-80GB-HBM3", 8, 1, "h")]
    spec = spec_of(model={"source": "hf://Qwen/Qwen2.5-72B-Instruct", "maxLength": 4096}, gpu={})
    assert gpu_of(spec, on_nodes(*nodes, previous="NVIDIA-L4"))[0] == "NVIDIA-H100-80GB-HBM3"


def test_pods_select_the_label_that_nodes_carry() -> None:
    alias = "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition"
    facts = on_nodes(labelled(alias))
    found = gpus_of_node(labelled(alias))
    assert found is not None
    for gpu in ({}, {"product": "RTX-PRO-6000"}, {"product": alias}):
        product, selector, _ = gpu_of(spec_of(gpu=gpu), facts)
        assert (product, selector) == (alias, {"nvidia.com/gpu.product": alias})


def test_a_product_that_no_node_carries_is_planned_for_all_the_same() -> None:
    """A cluster may scale its nodes up from none."""
    product, selector, _ = gpu_of(spec_of(gpu=H100), on_nodes(labelled("NVIDIA-L4")))
    assert selector == {"nvidia.com/gpu.product": product}
    assert refusal(spec_of(gpu={}), Facts(offers=()))[:2] == ("Sized", "NoGPUNodes")


def test_a_gpu_that_no_table_knows() -> None:
    said = {"product": "Some-New-GPU", "memory": "80Gi"}
    selector = {"nvidia.com/gpu.product": "Some-New-GPU"}
    assert gpu_of(spec_of(gpu=said)) == ("Some-New-GPU", selector, ["nvidia.com/gpu"])
    # What the user says goes before what the label says.
    facts = on_nodes(labelled("Some-New-GPU", "8192"))
    assert gpu_of(spec_of(gpu=said), facts) == ("Some-New-GPU", selector, ["nvidia.com/gpu"])
    assert refusal(spec_of(gpu={"count": 1}), facts)[:2] == ("Sized", "WeightsExceedMemory")
    other = {**said, "resourceName": "amd.com/gpu"}
    assert gpu_of(spec_of(gpu=other)) == ("Some-New-GPU", None, ["amd.com/gpu"])


def test_nodes_without_labels_can_be_used_by_the_memory_of_their_gpus() -> None:
    assert gpu_of(spec_of(gpu={"memory": "80Gi"})) == ("unnamed", None, ["nvidia.com/gpu"])
    assert refusal(spec_of(gpu={"memory": "8Gi", "count": 1}))[:2] == ("Sized", "WeightsExceedMemory")


def test_another_vendor_is_told_apart_by_its_resource() -> None:
    product, selector, asked = gpu_of(spec_of(gpu={"product": "AMD_Instinct_MI300X_OAM"}))
    assert (product, selector, asked) == ("AMD_Instinct_MI300X_OAM", None, ["amd.com/gpu"])
    tolerations = pod_of(spec_of(gpu={"product": "AMD_Instinct_MI300X_OAM"}))["tolerations"]
    assert tolerations == [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_what_is_said_of_a_gpu_must_make_sense() -> None:
    condition, reason, message = refusal(spec_of(gpu={"product": "NVIDIA-L4", "memory": "24Gi"}))
    assert (condition, reason) == ("Sized", "KnownGPU")
    assert "leave memory unset" in message
    condition, reason, message = refusal(spec_of(gpu={"product": "No-Such-GPU"}))
    assert (condition, reason) == ("Sized", "UnknownGPU")
    assert "'No-Such-GPU' is in no GPU table" in message


@pytest.mark.parametrize(("product", "known"), [("NVIDIA-L4", True), ("Some-New-GPU", False)])
def test_without_sizing_the_product_still_says_where_pods_run(product: str, known: bool) -> None:  # noqa: FBT001
    spec = spec_of(gpu={"product": product, "count": 2}, sizing={"mode": "Off"})
    assert pod_of(spec)["nodeSelector"] == {"nvidia.com/gpu.product": product}
    sizing = accepted(spec).sizing
    assert sizing is not None
    assert sizing.gpu is not None
    assert sizing.gpu.known is known


# --- what the verdict of sizing means


TOO_BIG = {"model": {"source": "hf://Qwen/Qwen2.5-72B-Instruct", "maxLength": 4096}, "gpu": {**H100, "count": 1}}


@pytest.mark.parametrize(
    ("spec", "condition", "reason"),
    [
        (TOO_BIG, "Sized", "WeightsExceedMemory"),
        (spec_of(model={"source": "hf://acme/assistant"}), "ModelResolved", "UnknownModel"),
        (spec_of(model={"source": "hf://a/b", "facts": {"hidden_size": "x"}}), "ModelResolved", "ConfigUnreadable"),
        (spec_of(model={"source": "hf://a/b", "facts": {"parameters": -1}}), "ModelResolved", "InvalidSpec"),
        (spec_of(gpu={**H100, "count": 3}, parallelism={"tensor": 3}), "Sized", "HeadsNotDivisible"),
        (spec_of(gpu=H100, parallelism={"nodes": 2}), "Sized", None),
        (spec_of(engine={"extraArgs": ["-tp", "2"]}), "Accepted", "InvalidArguments"),
    ],
)
def test_refusals(spec: dict[str, Any], condition: str, reason: str | None) -> None:
    found = refusal(spec)
    assert found[0] == condition
    assert reason in (found[1], None)
    assert plan_of(spec).children == ()


def test_advisory_lets_run_what_may_not_fit_but_not_what_cannot_work() -> None:
    advisory = {"sizing": {"mode": "Advisory"}}
    plan = accepted({**TOO_BIG, **advisory})
    assert [warning.reason for warning in plan.warnings] == ["SizeNotSafe"]
    split = {"gpu": {**H100, "count": 3}, "parallelism": {"tensor": 3}}
    assert refusal(spec_of(**split, **advisory))[1] == "HeadsNotDivisible"


@pytest.mark.parametrize("value", ["7", True, 0, -1, [], {}, float("nan"), float("inf"), 1e9])
def test_counts_by_hand_must_be_counts(value: object) -> None:
    for facts in ({"parameters": value}, {"parameters": 7, "bytesPerParameter": value}):
        condition, reason, message = refusal(spec_of(model={"source": "hf://acme/x", "facts": facts}))
        assert (condition, reason) == ("ModelResolved", "InvalidSpec")
        assert message.startswith("spec.model.facts.")


def test_red_lines_that_are_crossed_knowingly_are_named() -> None:
    def warnings(**fields: Any) -> list[str]:  # noqa: ANN401
        return [warning.reason for warning in accepted(spec_of(**fields)).warnings]

    model = {"source": "hf://Qwen/Qwen3-8B", "maxLength": 4096}
    auth = {"apiKeySecretRef": {"name": "key"}}
    assert warnings() == []
    assert warnings(model={**model, "trustRemoteCode": True}) == ["RemoteCode"]
    assert warnings(model={**model, "source": "hf://acme/assistant-7b"}) == ["SizeEstimated"]
    assert warnings(gpu={"count": 1}, sizing={"mode": "Off"}) == ["SizeUnchecked"]
    assert warnings(auth=auth, service={"type": "LoadBalancer"}) == ["NetworkPolicyClosed"]
    assert warnings(auth=auth, service={"type": "LoadBalancer"}, networkPolicy={}) == []


# --- versions


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, "0.32"),
        ({"image": "vllm/vllm-openai:v0.31.0"}, "0.31"),
        ({"image": "registry.example:5000/vllm:0.30.1-cu130"}, "0.30"),
        ({"image": "registry.example:5000/vllm:nightly"}, "0.32"),
        ({"image": f"registry.example/vllm:v0.31.2@sha256:{'a' * 64}"}, "0.31"),
        ({"image": "ghcr.io/acme/chat:1.4.2", "command": ["serve"]}, "0.32"),
    ],
)
def test_the_version_of_vllm(engine: dict[str, Any], expected: str) -> None:
    assert plan_of(spec_of(engine=engine)).engine_version == expected


def test_offers_can_be_made_by_hand() -> None:
    """Facts are plain values: nothing of a plan depends on a cluster."""
    (l4,) = (offer.gpu for offer in fleet_offers() if offer.gpu.product == "NVIDIA-L4")
    model = {"source": "hf://Qwen/Qwen3-0.6B", "maxLength": 4096}
    plan = accepted(spec_of(model=model, gpu={}), Facts(offers=(Offer(l4, 1, 1),)))
    assert server_of(spec_of(model=model, gpu={}))["image"] == "vllm/vllm-openai:v0.32.0"
    assert plan.sizing is not None
    assert plan.sizing.gpu == l4


@pytest.mark.parametrize("asked", [{"sizing": {"mode": "Off"}, "gpu": {"count": 1}}, {"gpu": {"count": 0}}])
def test_a_config_that_cannot_be_sized_matters_only_to_sizing(asked: dict[str, Any]) -> None:
    """Whisper has no num_attention_heads, and vLLM serves it."""
    source = "hf://acme/whisper"
    config = {"architectures": ["WhisperForConditionalGeneration"], "d_model": 1280, "encoder_attention_heads": 20}
    facts = Facts(inspects=True, inspection=Inspection(source, config=config))
    assert accepted(spec_of(model={"source": source}, **asked), facts).children
    assert refusal(spec_of(model={"source": source}), facts)[:2] == ("ModelResolved", "ConfigUnreadable")
