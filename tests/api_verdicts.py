"""Odd values and what the API server says to them: both sides of the API are held to this list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_operator.api import API_VERSION, KIND

_MODEL = {"source": "hf://Qwen/Qwen3-8B"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A resource and whether it is accepted."""

    name: str
    document: dict[str, Any]
    accepted: bool


def resource(spec: object, name: str = "x") -> dict[str, Any]:
    """A resource around a spec."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def _case(name: str, spec: dict[str, Any], *, accepted: bool) -> Verdict:
    return Verdict(name, resource({"model": _MODEL, **spec}), accepted)


def _accepted(name: str, **spec: Any) -> Verdict:  # noqa: ANN401 - any value is tried
    return _case(name, spec, accepted=True)


def _refused(name: str, **spec: Any) -> Verdict:  # noqa: ANN401 - any value is tried
    return _case(name, spec, accepted=False)


VERDICTS = (
    # whole numbers that JSON writes with a point
    _accepted("replicas 2.0", replicas=2.0),
    _accepted("count 2.0", gpu={"count": 2.0}),
    _accepted("memory 5.0", gpu={"memory": 5.0}),
    _accepted("utilization 1", gpu={"memoryUtilization": 1}),
    _refused("replicas 2.5", replicas=2.5),
    _refused("count 2.5", gpu={"count": 2.5}),
    _refused("memory 5.5", gpu={"memory": 5.5}),
    _refused("count 1e30", gpu={"count": 10**30}),
    # no value is read as another type
    _refused("replicas true", replicas=True),
    _refused("suspend 1", suspend=1),
    _refused("suspend word", suspend="true"),
    _refused("utilization true", gpu={"memoryUtilization": True}),
    _refused("product number", gpu={"product": 4090}),
    _refused("size true", cache={"size": True}),
    _refused("gpu list", gpu=[]),
    _refused("env object", engine={"env": {"A": "1"}}),
    _refused("facts list", model={**_MODEL, "facts": []}),
    # null is absent
    _accepted("replicas null", replicas=None),
    _accepted("gpu null", gpu=None),
    _accepted("product null", gpu={"product": None}),
    _accepted("lora null", engine={"lora": None}),
    _accepted("annotation null", service={"annotations": {"a": None}}),
    _accepted("fact null", model={**_MODEL, "facts": {"sliding_window": None}}),
    _refused("argument null", engine={"extraArgs": [None]}),
    _refused("source null", model={"source": None}),
    _refused("model null", model=None),
    # a pattern means the same on both sides, to the last character
    _refused("source with a newline", model={"source": "hf://a/b\n"}),
    _refused("source beyond ASCII", model={"source": "hf://a/é"}),
    _refused("source with a digit beyond ASCII", model={"source": "hf://a/٣"}),
    _refused("served name with a no-break space", model={**_MODEL, "servedNames": ["a\u00a0b"]}),
    _refused("image with a newline", engine={"image": "a:1\n"}),
    _refused("image tag beyond ASCII", engine={"image": "a:é"}),
    _refused("memory with a newline", gpu={"memory": "80Gi\n"}),
    _refused("product with a newline", gpu={"product": "NVIDIA-L4\n"}),
    _accepted("claim empty", cache={"claimName": ""}),
    _accepted("storage class empty", cache={"storageClassName": ""}),
    _refused("secret with dots in a row", model={**_MODEL, "tokenSecretRef": {"name": "a..b"}}),
    _accepted("secret with dots", model={**_MODEL, "tokenSecretRef": {"name": "a.b"}}),
    _accepted("long emoji value", engine={"env": [{"name": "A", "value": "\U0001f600" * 4096}]}),
    _refused("longer emoji value", engine={"env": [{"name": "A", "value": "\U0001f600" * 4097}]}),
    # quantities
    _accepted("memory bytes", gpu={"memory": 5}),
    _accepted("memory fraction", gpu={"memory": "0.5Ti"}),
    _accepted("memory exponent", gpu={"memory": "80e9"}),
    _refused("memory huge exponent", gpu={"memory": "1e400"}),
    _refused("memory thousandths", gpu={"memory": "1500m"}),
    _refused("memory 0", gpu={"memory": 0}),
    _refused("size 0.0Gi", cache={"size": "0.0Gi"}),
    _refused("size Auto", cache={"size": "Auto"}),
    # what passes through is an object and nothing else
    _refused("behavior number", autoscaling={"maxReplicas": 2, "behavior": 3}),
    _refused("peer word", networkPolicy={"from": ["a"]}),
    _accepted("peers none", networkPolicy={}),
    _refused("value from nowhere", engine={"env": [{"name": "A", "valueFrom": {}}]}),
    Verdict("spec null", resource(None), accepted=False),
    Verdict("spec list", resource([]), accepted=False),
    Verdict("name dots", resource({"model": _MODEL}, "a..b"), accepted=False),
    Verdict("name digits", resource({"model": _MODEL}, "70b.v2"), accepted=True),
    Verdict("name 253", resource({"model": _MODEL}, "a" * 253), accepted=True),
    Verdict("name 254", resource({"model": _MODEL}, "a" * 254), accepted=False),
)
