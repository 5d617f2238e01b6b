"""Every leaf of the spec reaches what runs: change it, and a manifest changes, or the resource is refused.

A new field without a row here fails the test, and so does a row whose field is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from planning import Manifest, manifests_of, plan_of, spec_of
from vllm_operator.api.crd import schema_of
from vllm_operator.api.spec import Spec
from vllm_operator.naming import INPUTS_ANNOTATION
from vllm_operator.plan.types import Plan

UNSET: Any = object()
H100 = {"product": "NVIDIA-H100-80GB-HBM3"}
SECRET = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
CONFIG_MAP = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}
LORA = {"adapters": [{"name": "a", "source": "hf://acme/a"}]}
CLAIM = "pvc://models/chat"
AUTOSCALED = {"autoscaling": {"maxReplicas": 4}}
POD_IP, NODE_NAME = {"fieldPath": "status.podIP"}, {"fieldPath": "spec.nodeName"}

# Parts of the spec that no pod depends on.
NOT_OF_PODS = (
    "spec.replicas",
    "spec.service.",
    "spec.monitoring.",
    "spec.rollout.",
    "spec.networkPolicy.",
    "spec.suspend",
)

# Leaves that can change nothing, each with the reason; the test checks the reason.
SINGLE_VALUED = {"spec.autoscaling.provider"}


@dataclass(frozen=True)
class Row:
    """One change of a leaf: its value before (unset as a rule) and after, and the rest of the spec around it."""

    after: Any
    around: dict[str, Any] = field(default_factory=dict)
    before: Any = UNSET
    refused: bool = False  # the change shows by being refused


def engine(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of the engine
    return {"engine": fields}


def model(source: str = "hf://Qwen/Qwen3-8B", **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"model": {"source": source, "maxLength": 16384, **fields}}


DRAFT = engine(speculative={"method": "eagle3"})
TOO_LONG = model("hf://Qwen/Qwen3-32B", maxLength=40960) | {"gpu": {**H100, "count": 1}}

ROWS = {
    "spec.model.source": Row(before="hf://Qwen/Qwen3-8B", after="hf://Qwen/Qwen3-4B"),
    "spec.model.revision": Row(after="v1.0"),
    "spec.model.servedNames": Row(after=["chat"]),
    "spec.model.tokenSecretRef.name": Row(before="a", after="b"),
    "spec.model.tokenSecretRef.key": Row(after="other", around=model(tokenSecretRef={"name": "a"})),
    "spec.model.maxLength": Row(before=16384, after=8192),
    "spec.model.quantization": Row(after="fp8", around={"gpu": H100}),
    "spec.model.dtype": Row(after="bfloat16"),
    "spec.model.trustRemoteCode": Row(after=True),
    "spec.model.files.include": Row(after=["*.safetensors"]),
    "spec.model.files.exclude": Row(after=[]),
    "spec.model.facts": Row(before={"parameters": 7}, after={"parameters": 14}, around=model(CLAIM)),
    "spec.gpu.product": Row(before="NVIDIA-A100-SXM4-40GB", after="NVIDIA-L4", around=model(maxLength=2048)),
    "spec.gpu.count": Row(after=2),
    "spec.gpu.memory": Row(before="80Gi", after="20Gi", around={"gpu": {"product": "Some-New-GPU"}}),
    "spec.gpu.memoryUtilization": Row(after=0.85),
    "spec.gpu.resourceName": Row(after="nvidia.com/mig-3g.40gb"),
    "spec.parallelism.tensor": Row(before=2, after=4, around={"gpu": {**H100, "count": 4}}),
    "spec.parallelism.pipeline": Row(before=1, after=2, around={"gpu": {**H100, "count": 4}}),
    "spec.parallelism.nodes": Row(after=2, around={"gpu": {**H100, "count": 2}}, refused=True),
    "spec.parallelism.expert": Row(after=True, around=model("hf://Qwen/Qwen3-30B-A3B") | {"gpu": {**H100, "count": 2}}),
    "spec.sizing.mode": Row(before="Advisory", after="Strict", around=TOO_LONG, refused=True),
    "spec.engine.image": Row(after="vllm/vllm-openai:v0.32.1"),
    "spec.engine.profile": Row(after="Latency"),
    "spec.engine.maxSequences": Row(after=64),
    "spec.engine.maxBatchedTokens": Row(after=4096),
    "spec.engine.kvCacheDtype": Row(after="float16"),
    "spec.engine.kvCacheMemory": Row(before="4Gi", after="6Gi"),
    "spec.engine.kvOffload.size": Row(before="8Gi", after="16Gi"),
    "spec.engine.maxQueuedRequests": Row(after=100),
    "spec.engine.maxQueuedTokens": Row(after=100_000),
    "spec.engine.prefixCaching": Row(after=False),
    "spec.engine.enforceEager": Row(after=True),
    "spec.engine.speculative.method": Row(before="ngram", after="suffix"),
    "spec.engine.speculative.tokens": Row(after=2, around=engine(speculative={})),
    "spec.engine.speculative.promptLookupMax": Row(after=3),
    "spec.engine.speculative.promptLookupMin": Row(after=3),
    "spec.engine.speculative.model": Row(before="hf://a/b", after="hf://a/c", around=DRAFT),
    "spec.engine.lora.adapters[].name": Row(before="a", after="b", around=engine(lora=LORA)),
    "spec.engine.lora.adapters[].source": Row(before="hf://acme/a", after="hf://acme/b", around=engine(lora=LORA)),
    "spec.engine.lora.maxRank": Row(after=64, around=engine(lora=LORA)),
    "spec.engine.structuredOutputs.backend": Row(before="auto", after="guidance"),
    "spec.engine.structuredOutputs.disableAnyWhitespace": Row(
        after=True, around=engine(structuredOutputs={"backend": "guidance"})
    ),
    "spec.engine.toolCalling.parser": Row(before="hermes", after="mistral"),
    "spec.engine.reasoning.parser": Row(before="qwen3", after="deepseek_r1"),
    "spec.engine.extraArgs": Row(after=["--seed", "1"]),
    "spec.engine.env[].name": Row(before="A", after="B"),
    "spec.engine.env[].value": Row(after="1", around=engine(env=[{"name": "X"}])),
    "spec.engine.env[].valueFrom.secretKeyRef.name": Row(before="a", after="z", around=engine(env=[SECRET])),
    "spec.engine.env[].valueFrom.secretKeyRef.key": Row(before="b", after="z", around=engine(env=[SECRET])),
    "spec.engine.env[].valueFrom.secretKeyRef.optional": Row(after=True, around=engine(env=[SECRET])),
    "spec.engine.env[].valueFrom.configMapKeyRef.name": Row(before="a", after="z", around=engine(env=[CONFIG_MAP])),
    "spec.engine.env[].valueFrom.configMapKeyRef.key": Row(before="b", after="z", around=engine(env=[CONFIG_MAP])),
    "spec.engine.env[].valueFrom.configMapKeyRef.optional": Row(after=True, around=engine(env=[CONFIG_MAP])),
    "spec.engine.env[].valueFrom.fieldRef": Row(before=POD_IP, after=NODE_NAME, around=engine(env=[{"name": "X"}])),
    "spec.engine.command": Row(after=["serve"], around=engine(image="ghcr.io/acme/chat:1.0")),
    "spec.replicas": Row(after=2),
    "spec.autoscaling.minReplicas": Row(after=2, around=AUTOSCALED),
    "spec.autoscaling.maxReplicas": Row(before=4, after=5),
    "spec.autoscaling.metric": Row(after="Waiting", around=AUTOSCALED),
    "spec.autoscaling.target": Row(after=10, around=AUTOSCALED),
    "spec.autoscaling.behavior": Row(after={"scaleUp": {"stabilizationWindowSeconds": 0}}, around=AUTOSCALED),
    "spec.cache.size": Row(after="100Gi"),
    "spec.cache.storageClassName": Row(after="fast"),
    "spec.cache.accessMode": Row(after="ReadWriteOnce"),
    "spec.cache.reclaimPolicy": Row(after="Delete"),
    "spec.cache.claimName": Row(after="models"),
    "spec.cache.ephemeral": Row(after=True),
    "spec.cache.preload": Row(after=False),
    "spec.service.type": Row(after="NodePort"),
    "spec.service.port": Row(after=8080),
    "spec.service.annotations": Row(after={"a": "b"}),
    "spec.auth.apiKeySecretRef.name": Row(before="a", after="b"),
    "spec.auth.apiKeySecretRef.key": Row(after="other", around={"auth": {"apiKeySecretRef": {"name": "a"}}}),
    "spec.monitoring.podMonitor": Row(after=True),
    "spec.monitoring.rules": Row(after=True),
    "spec.monitoring.dashboard": Row(after=True),
    "spec.rollout.spareGPU": Row(after=True),
    "spec.lifecycle.startupTimeoutSeconds": Row(after=600),
    "spec.lifecycle.drainSeconds": Row(after=30),
    "spec.lifecycle.preStopSeconds": Row(after=5),
    "spec.networkPolicy.from": Row(before=[], after=[{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
    "spec.podTemplate": Row(after={"spec": {"priorityClassName": "inference"}}),
    "spec.suspend": Row(after=True),
}  # fmt: skip


def leaves(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and schema of what holds a value of its own: no named fields, no list of objects with named fields."""
    if "properties" in schema:
        for name, child in schema["properties"].items():
            yield from leaves(child, f"{path}.{name}")
    elif "properties" in schema.get("items", {}):
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path, schema


LEAVES = dict(leaves(schema_of(Spec), "spec"))


def put(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """The spec with a leaf set, or taken out; the first item stands for a list."""
    name, _, rest = path.partition(".")
    key = name.removesuffix("[]")
    if not rest:
        others = {one: child for one, child in spec.items() if one != key}
        return others if value is UNSET else {**others, key: value}
    if key != name:
        items = spec.get(key, [{}])
        return {**spec, key: [put(items[0], rest, value), *items[1:]]}
    return {**spec, key: put(spec.get(key, {}), rest, value)}


def planned(path: str, row: Row, value: Any) -> Plan:  # noqa: ANN401 - JSON
    return plan_of(put(spec_of(**row.around), path.removeprefix("spec."), value))


def running(plan: Plan) -> dict[str, Manifest]:
    """What is rendered, but for the record of what it was rendered from: that changes with nearly every leaf."""
    found = manifests_of(plan)
    found["Deployment"]["metadata"]["annotations"].pop(INPUTS_ANNOTATION)
    return found


def test_every_leaf_has_a_row() -> None:
    assert len(LEAVES) > 70, "the walk finds the leaves"
    assert set(ROWS) | SINGLE_VALUED == set(LEAVES)
    assert not set(ROWS) & SINGLE_VALUED


@pytest.mark.parametrize("path", ROWS)
def test_a_changed_leaf_changes_what_runs(path: str) -> None:
    row = ROWS[path]
    before, after = planned(path, row, row.before), planned(path, row, row.after)
    assert before.refusal is None, before.refusal
    assert (after.refusal is not None) == row.refused, after.refusal
    if not row.refused:
        assert running(before) != running(after)


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if not row.refused])
def test_a_leaf_that_reaches_pods_counts_among_their_inputs(path: str) -> None:
    """Else a change of it would be taken for a mere upgrade of the operator, and pods would be left as they are."""
    row = ROWS[path]
    before, after = (manifests_of(planned(path, row, value))["Deployment"] for value in (row.before, row.after))
    same_pods = before["spec"]["template"] == after["spec"]["template"]
    same_inputs = before["metadata"]["annotations"] == after["metadata"]["annotations"]
    assert same_pods or not same_inputs
    if path.startswith(NOT_OF_PODS):
        assert same_pods
        assert same_inputs


@pytest.mark.parametrize("path", sorted(SINGLE_VALUED))
def test_what_changes_nothing_has_one_value_only(path: str) -> None:
    assert LEAVES[path]["enum"] == [LEAVES[path]["default"]]
