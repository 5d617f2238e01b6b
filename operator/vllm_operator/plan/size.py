"""From a spec to a shape: which question sizing is asked, and what the answer means in each mode."""

from __future__ import annotations

import re
from dataclasses import replace

from vllm_operator.api.quantity import to_bytes
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import kv_cache_bytes
from vllm_operator.errors import Problem
from vllm_operator.plan.types import Facts, Plan, Refusal
from vllm_operator.sizing.choose import size
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import GPU, gpus, lookup, unknown_gpu
from vllm_operator.sizing.tables import Tables
from vllm_operator.sizing.types import Offer, ParameterCount, ReasonKind, Sizing, SizingRequest, Verdict

DEFAULT_RESOURCE = "nvidia.com/gpu"
UNNAMED = "unnamed"  # a GPU of which only the memory is said: pods run on any node that has the resource
_USUAL_GPUS_PER_NODE = 8
_ROUNDING = 0.001  # of figures in GiB
_MANY_NODES = 64  # offline there is no inventory: assume enough nodes


def _number(value: int | str) -> int | None:
    return None if value == "auto" else int(value)


def _known_gpu(spec: Spec, tables: Tables) -> GPU | None:
    return tables.gpu(spec.gpu.product) or lookup(spec.gpu.product)


def _unlisted_gpu(spec: Spec) -> GPU:
    """A GPU that no table knows, as far as the spec tells: product or not, memory or not."""
    memory = to_bytes(spec.gpu.memory) / 2**30 if spec.gpu.memory else 0.0
    gpu = unknown_gpu(spec.gpu.product or UNNAMED, memory)
    return replace(gpu, resource_name=spec.gpu.resource_name or DEFAULT_RESOURCE)


def _table_offer(gpu: GPU) -> Offer:
    return Offer(gpu, max(gpu.gpus_per_node, default=_USUAL_GPUS_PER_NODE), _MANY_NODES)


def _any_gpu(facts: Facts, tables: Tables) -> tuple[Offer, ...]:
    """What the cluster has; without a cluster, what the tables know."""
    if facts.offers is None:
        known = {**gpus(), **tables.gpus}
        return tuple(_table_offer(gpu) for gpu in known.values() if gpu.vendor == "nvidia")
    return facts.offers


def _misnamed_gpu(spec: Spec, tables: Tables) -> Refusal | None:
    gpu = _known_gpu(spec, tables)
    if gpu and spec.gpu.memory:
        sentence = f"{spec.gpu.product} is in the GPU table, with {gpu.memory_gib:g} GiB: leave memory unset"
        return Refusal("Sized", "KnownGPU", (Problem("spec.gpu.memory", sentence),))
    if gpu or spec.gpu.memory or not spec.gpu.product:
        return None
    sentence = (
        f"{spec.gpu.product!r} is in no GPU table: use the node label nvidia.com/gpu.product of a known GPU, or say "
        "spec.gpu.memory"
    )
    return Refusal("Sized", "UnknownGPU", (Problem("spec.gpu.product", sentence),))


def offers_for(spec: Spec, facts: Facts, tables: Tables) -> tuple[Offer, ...]:
    """GPUs to choose from: what the cluster has, narrowed to the product that is named.

    Nodes may carry another label of the same product, which pods then select. What is said of a GPU that no table
    knows goes before what its label says.
    """
    if not spec.gpu.product and not spec.gpu.memory:
        return _any_gpu(facts, tables)
    gpu = _known_gpu(spec, tables)
    offers = facts.offers or ()
    if gpu is not None:
        return tuple(offer for offer in offers if offer.gpu.name == gpu.name) or (_table_offer(gpu),)
    said = _unlisted_gpu(spec)
    seen = tuple(replace(offer, gpu=said) for offer in offers if offer.gpu.product == said.product)
    return seen or (_table_offer(said),)


def _overrides_config(spec: Spec) -> bool:
    """Whether --hf-overrides is among the extra arguments; `=` or a dot with a key may follow its name."""
    words = (word.replace("_", "-") for word in spec.engine.extra_args)
    return any(re.match(r"--hf-overrides(?:[=.]|$)", word) for word in words)


def request_for(plan: Plan, model: ModelFacts | ParameterCount, offers: tuple[Offer, ...]) -> SizingRequest:
    """The spec as a question to the memory model."""
    spec, chosen = plan.resource.spec, plan.settings
    engine, shape = spec.engine, spec.parallelism
    length = spec.model.max_length
    return SizingRequest(
        model=model,
        offers=offers,
        gpus=_number(spec.gpu.count),
        tensor=_number(shape.tensor),
        pipeline=_number(shape.pipeline),
        nodes=_number(shape.nodes) or 1,  # until replicas over several nodes are supported, none is proposed
        expert=shape.expert,
        max_length="auto" if length == "auto" else int(length),
        max_sequences=chosen.max_sequences,
        max_batched_tokens=chosen.max_batched_tokens,
        memory_utilization=chosen.memory_utilization,
        kv_cache_dtype=chosen.kv_cache_dtype,
        dtype=spec.model.dtype,
        quantization=spec.model.quantization,
        enforce_eager=engine.enforce_eager,
        prefix_caching=engine.prefix_caching,
        lora_adapters=len(engine.lora.adapters) if engine.lora else 0,
        lora_rank=engine.lora.max_rank if engine.lora else 16,
        speculative_method=engine.speculative.method if engine.speculative else None,
        speculative_tokens=engine.speculative.tokens if engine.speculative else 0,
        draft=plan.model.draft if plan.model else None,
        engine_version=plan.engine_version,
        kv_cache_bytes=kv_cache_bytes(spec),
        overridden=_overrides_config(spec),
    )


def unsized(spec: Spec, tables: Tables) -> Sizing:
    """The shape when nothing is checked: CPU backend, or `sizing.mode: Off` with the numbers that the spec gives."""
    count = int(spec.gpu.count) if spec.gpu.count != "auto" else 1
    pipeline = _number(spec.parallelism.pipeline) or 1
    tensor = _number(spec.parallelism.tensor) or max(1, count // pipeline)
    length = spec.model.max_length
    why = "vLLM's CPU backend uses no GPU" if count == 0 else "sizing.mode is Off: nothing was checked"
    return Sizing(
        verdict=Verdict.SKIPPED,
        explanation=why,
        gpu=_known_gpu(spec, tables) or _unlisted_gpu(spec) if spec.gpu.product else None,
        gpus=count,
        tensor=tensor,
        pipeline=pipeline,
        nodes=_number(spec.parallelism.nodes) or 1,
        expert=spec.parallelism.expert,
        max_length=None if length == "auto" else int(length),
    )


def size_spec(plan: Plan, model: ModelFacts | ParameterCount, facts: Facts, tables: Tables) -> Sizing | Refusal:
    """The shape for a spec. An earlier choice is kept while it still fits: GPU pods do not move for a better price."""
    spec = plan.resource.spec
    if refusal := _misnamed_gpu(spec, tables):
        return refusal

    def shape(offers: tuple[Offer, ...]) -> Sizing:
        return size(request_for(plan, model, offers))

    offers = offers_for(spec, facts, tables)
    answer = shape(offers)
    earlier = tuple(offer for offer in offers if offer.gpu.product == facts.previous_product)
    is_free = not (spec.gpu.product or spec.gpu.memory)
    if not (is_free and earlier) or (answer.gpu and answer.gpu.product == facts.previous_product):
        return answer
    kept = shape(earlier)
    if kept.verdict is Verdict.REFUSED:
        return answer
    return replace(
        kept, explanation=f"{kept.explanation} Kept from an earlier choice: GPU pods do not move for a better price."
    )


def cache_too_large(spec: Spec, sizing: Sizing) -> str:
    """That the KV cache that the spec asks for is more than its GPUs have left; empty when it is not, or not known.

    vLLM takes such a size at its word, whatever the share of memory that it may use, and dies of it.
    """
    asked = kv_cache_bytes(spec)
    if asked is None or sizing.per_gpu is None or sizing.gpu is None:
        return ""
    left = sizing.per_gpu.kv_cache.low
    if asked / 2**30 <= left + _ROUNDING:
        return ""
    return (
        f"{asked / 2**30:.1f} GiB of KV cache do not fit: {left:.1f} GiB of one {sizing.gpu.name} are left for it; ask "
        "for less, or leave kvCacheMemory unset to take what is left"
    )


def judge(spec: Spec, sizing: Sizing) -> Refusal | None:
    """What the answer means in the spec's mode: None lets it run."""
    if sizing.nodes > 1:
        sentence = f"this needs {sizing.nodes} nodes per replica, and replicas over several nodes are not supported yet"
        return Refusal("Sized", "MultiNodeUnsupported", (Problem("spec.parallelism.nodes", sentence),))
    if (problem := cache_too_large(spec, sizing)) and spec.sizing.mode != "Advisory":
        return Refusal("Sized", "KVCacheTooLarge", (Problem("spec.engine.kvCacheMemory", problem),))
    if sizing.verdict in (Verdict.FITS, Verdict.ESTIMATED, Verdict.SKIPPED):
        return None
    may_try = all(reason.kind in (ReasonKind.MEMORY, ReasonKind.ADVICE) for reason in sizing.reasons)
    if spec.sizing.mode == "Advisory" and may_try and sizing.gpus:
        return None
    if sizing.verdict is Verdict.TIGHT:
        sentence = f"fits only on the optimistic bound; {sizing.nearest_fit or 'sizing.mode Advisory lets it try'}"
        return Refusal("Sized", "Tight", (Problem("", sentence),))
    sentences = tuple(Problem("", reason.message) for reason in sizing.reasons)
    hint = (Problem("", f"nearest fit: {sizing.nearest_fit}"),) if sizing.nearest_fit else ()
    return Refusal("Sized", sizing.reasons[0].code, (*sentences, *hint))
