"""The facts of a model as the request wants it loaded: another dtype, or quantised while loading."""

from __future__ import annotations

from dataclasses import replace

from vllm_operator.sizing.facts import ModelFacts, schemes_of
from vllm_operator.sizing.layers import Experts, Layer, Linear
from vllm_operator.sizing.quantization import ONLINE, Format, Scheme
from vllm_operator.sizing.types import SizingRequest
from vllm_operator.sizing.versions import terms_of

KEPT = frozenset({"gate", "shared_expert_gate", "conv1d", "kv_b_proj"})
"""Matrices that stay as they are when vLLM quantises while loading."""


def as_requested(facts: ModelFacts, request: SizingRequest) -> ModelFacts:
    """Facts with the request's dtype and quantisation. A quantised checkpoint keeps its own format."""
    if request.dtype in {"float32", "float"} and facts.dense_bits != 32:  # noqa: PLR2004 - bits of a 32-bit float
        wide = Format(bits=32)
        facts = replace(_reformatted(facts, wide), dense_bits=32, head_format=wide)
    if terms_of(request.engine_version).two_runners:
        facts = replace(facts, rope_bytes=facts.rope_bytes_older)
    online = ONLINE.get(request.quantization or "")
    if online is None or facts.quantization is not None:
        return facts
    return replace(_reformatted(facts, online), quantization=request.quantization)


def _reformatted(facts: ModelFacts, fmt: Format) -> ModelFacts:
    changed = {id(layer): _layer(layer, fmt) for layer in {id(layer): layer for layer in facts.layers}.values()}
    layers = tuple(changed[id(layer)] for layer in facts.layers)
    return replace(facts, layers=layers, schemes=schemes_of(layers))


def _layer(layer: Layer, fmt: Format) -> Layer:
    linears = tuple(_linear(linear, fmt) for linear in layer.linears)
    experts = layer.experts
    if isinstance(experts, Experts) and experts.format.scheme is Scheme.DENSE:
        experts = replace(experts, format=fmt)
    return replace(layer, linears=linears, experts=experts)


def _linear(linear: Linear, fmt: Format) -> Linear:
    if linear.format.scheme is not Scheme.DENSE or (linear.name in KEPT and fmt.scheme is not Scheme.DENSE):
        return linear
    return replace(linear, format=fmt)
