"""The facts of a model as the request wants it loaded: another dtype, or quantised while loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from vllm_operator.sizing.facts import ModelFacts, schemes_of
from vllm_operator.sizing.layers import Experts, Layer, Linear
from vllm_operator.sizing.quantization import ONLINE, ONLINE_EXPERTS, Format, Scheme
from vllm_operator.sizing.types import SizingRequest
from vllm_operator.sizing.versions import terms_of

KEPT = frozenset({"gate", "shared_expert_gate", "conv1d", "kv_b_proj"})
"""Matrices that stay as they are when vLLM quantises while loading."""


def as_requested(facts: ModelFacts, request: SizingRequest) -> ModelFacts:
    """Facts with the request's dtype and quantisation. A quantised checkpoint keeps its own format."""
    if request.dtype in {"float32", "float"} and facts.dense_bits != 32:  # noqa: PLR2004 - bits of a 32-bit float
        wide = Format(bits=32)
        facts = replace(_reformatted(facts, wide), dense_bits=32, head_format=wide)
    terms = terms_of(request.engine_version)
    if terms.two_runners:
        facts = replace(facts, rope_bytes=facts.rope_bytes_older)
    if terms.multiplies_yarn and facts.yarn_length:
        facts = replace(facts, max_length=facts.yarn_length)
    if facts.quantization is not None or request.quantization is None:
        return facts
    if online := ONLINE.get(request.quantization):
        return replace(_reformatted(facts, online), quantization=request.quantization)
    if facts.is_moe and (online := ONLINE_EXPERTS.get(request.quantization)):
        return replace(_with_layers(facts, partial(_with_experts, fmt=online)), quantization=request.quantization)
    return facts


def _with_layers(facts: ModelFacts, change: Callable[[Layer], Layer]) -> ModelFacts:
    """The facts with every layer changed; layers that were one object stay one."""
    changed = {id(layer): change(layer) for layer in {id(layer): layer for layer in facts.layers}.values()}
    layers = tuple(changed[id(layer)] for layer in facts.layers)
    return replace(facts, layers=layers, schemes=schemes_of(layers))


def _reformatted(facts: ModelFacts, fmt: Format) -> ModelFacts:
    return _with_layers(facts, partial(_layer, fmt=fmt))


def _layer(layer: Layer, fmt: Format) -> Layer:
    linears = tuple(_linear(linear, fmt) for linear in layer.linears)
    return replace(_with_experts(layer, fmt), linears=linears)


def _with_experts(layer: Layer, fmt: Format) -> Layer:
    experts = layer.experts
    if isinstance(experts, Experts) and experts.format.scheme is Scheme.DENSE:
        return replace(layer, experts=replace(experts, format=fmt))
    return layer


def _linear(linear: Linear, fmt: Format) -> Linear:
    if linear.format.scheme is not Scheme.DENSE or (linear.name in KEPT and fmt.scheme is not Scheme.DENSE):
        return linear
    return replace(linear, format=fmt)
