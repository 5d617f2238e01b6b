"""From a spec to a shape: which question sizing is asked, and what the answer means in each mode."""

from __future__ import annotations

from vllm_operator.api.quantity import to_bytes
from vllm_operator.api.spec import Spec
from vllm_operator.engine.profiles import Settings
from vllm_operator.errors import Problem
from vllm_operator.plan.types import Facts, Plan, Refusal
from vllm_operator.sizing.choose import size
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import GPU, gpus, lookup, unknown_gpu
from vllm_operator.sizing.tables import Tables
from vllm_operator.sizing.types import Offer, ParameterCount, ReasonKind, Sizing, SizingRequest, Verdict

DEFAULT_RESOURCE = "nvidia.com/gpu"
_USUAL_GPUS_PER_NODE = 8
_MANY_NODES = 64  # offline there is no inventory: assume enough nodes


def _number(value: int | str) -> int | None:
    return None if value == "auto" else int(value)


def _named_gpu(spec: Spec, tables: Tables) -> GPU | None:
    """The GPU that the spec names: from the tables, or by its memory when they do not know it."""
    found = tables.gpu(spec.gpu.product) or lookup(spec.gpu.product)
    if spec.gpu.memory and (found is None or found.product != spec.gpu.product):
        return unknown_gpu(spec.gpu.product, to_bytes(spec.gpu.memory) / 2**30)
    return found


def _table_offer(gpu: GPU) -> Offer:
    return Offer(gpu, max(gpu.gpus_per_node, default=_USUAL_GPUS_PER_NODE), _MANY_NODES)


def offers_for(spec: Spec, facts: Facts, tables: Tables) -> tuple[Offer, ...] | Problem:
    """GPUs to choose from: what the cluster has, narrowed to the product that is named; or what is wrong with it."""
    if not spec.gpu.product and not spec.gpu.memory:
        if facts.offers is None:
            known = {**gpus(), **tables.gpus}
            return tuple(_table_offer(gpu) for gpu in known.values() if gpu.vendor == "nvidia")
        sticky = tuple(offer for offer in facts.offers if offer.gpu.product == facts.previous_product)
        return sticky or facts.offers
    gpu = _named_gpu(spec, tables)
    if gpu is None:
        return Problem(
            "spec.gpu.product",
            f"{spec.gpu.product!r} is in no GPU table: use the node label nvidia.com/gpu.product of a known GPU, or "
            "say spec.gpu.memory",
        )
    seen = tuple(offer for offer in facts.offers or () if offer.gpu.product == gpu.product)
    return seen or (_table_offer(gpu),)


def request_for(
    spec: Spec, chosen: Settings, model: ModelFacts | ParameterCount, offers: tuple[Offer, ...], version: str
) -> SizingRequest:
    """The spec as a question to the memory model."""
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
        lora_adapters=len(engine.lora.adapters) if engine.lora else 0,
        lora_rank=engine.lora.max_rank if engine.lora else 16,
        speculative_method=engine.speculative.method if engine.speculative else None,
        speculative_tokens=engine.speculative.tokens if engine.speculative else 0,
        engine_version=version,
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
        gpu=_named_gpu(spec, tables) if spec.gpu.product else None,
        gpus=count,
        tensor=tensor,
        pipeline=pipeline,
        nodes=_number(spec.parallelism.nodes) or 1,
        expert=spec.parallelism.expert,
        max_length=None if length == "auto" else int(length),
    )


def size_spec(plan: Plan, model: ModelFacts | ParameterCount, facts: Facts, tables: Tables) -> Sizing | Problem:
    """The shape for a spec. An earlier choice is kept while it still fits: GPU pods do not move for a better price."""
    spec, chosen, version = plan.resource.spec, plan.settings, plan.engine_version
    offers = offers_for(spec, facts, tables)
    if isinstance(offers, Problem):
        return offers
    answer = size(request_for(spec, chosen, model, offers, version))
    if answer.verdict is Verdict.REFUSED and facts.offers and not spec.gpu.product and offers != facts.offers:
        return size(request_for(spec, chosen, model, facts.offers, version))
    return answer


def judge(spec: Spec, sizing: Sizing) -> Refusal | None:
    """What the answer means in the spec's mode: None lets it run."""
    if sizing.nodes > 1:
        sentence = f"this needs {sizing.nodes} nodes per replica, and replicas over several nodes are not supported yet"
        return Refusal("Sized", "MultiNodeUnsupported", (Problem("spec.parallelism.nodes", sentence),))
    if sizing.verdict in (Verdict.FITS, Verdict.ESTIMATED, Verdict.SKIPPED):
        return None
    only_memory = all(reason.kind is ReasonKind.MEMORY for reason in sizing.reasons)
    if spec.sizing.mode == "Advisory" and only_memory and sizing.gpus:
        return None
    if sizing.verdict is Verdict.TIGHT:
        sentence = f"fits only on the optimistic bound; {sizing.nearest_fit or 'sizing.mode Advisory lets it try'}"
        return Refusal("Sized", "Tight", (Problem("", sentence),))
    sentences = tuple(Problem("", reason.message) for reason in sizing.reasons)
    hint = (Problem("", f"nearest fit: {sizing.nearest_fit}"),) if sizing.nearest_fit else ()
    return Refusal("Sized", sizing.reasons[0].code, (*sentences, *hint))
