"""The choice: the cheapest offer, the fewest GPUs and the simplest split on which a model fits; or why none does."""

from __future__ import annotations

from dataclasses import replace

from vllm_operator.sizing import estimated, explain, nearest
from vllm_operator.sizing.agreement import agreement_reasons
from vllm_operator.sizing.drafting import draft_facts, draft_reasons, with_doubt
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.memory import Estimate, Estimator, Settings
from vllm_operator.sizing.online import as_requested
from vllm_operator.sizing.rules import input_reasons
from vllm_operator.sizing.search import Found, Search
from vllm_operator.sizing.terms import Bytes, Load
from vllm_operator.sizing.types import (
    Band,
    ParameterCount,
    PerGPU,
    Reason,
    ReasonKind,
    Rejected,
    Sizing,
    SizingRequest,
    Verdict,
)
from vllm_operator.sizing.versions import terms_of
from vllm_operator.sizing.weights import GIB

MOST_REJECTED = 64


def size(request: SizingRequest) -> Sizing:
    """The answer to a request, with the nearest fit when it is refused.

    Never raises on a request of the right types.
    """
    answer = assess(request)
    if answer.verdict is not Verdict.REFUSED:
        return answer
    found = nearest.nearest_fit(request, answer, assess)
    return replace(answer, nearest_fit=found, explanation=explain.refusal(answer.reasons, found))


def assess(request: SizingRequest) -> Sizing:
    """The answer to a request, without looking for the nearest fit of a refusal."""
    if not request.offers:
        said = "No node offers a GPU: no node has a GPU product label that is known and allocatable GPUs."
        return refusal((Reason("NoGPUNodes", said, ReasonKind.INVENTORY),))
    model = estimated.facts_of(request.model) if isinstance(request.model, ParameterCount) else request.model
    facts = as_requested(model, request)
    settings = settings_of(request, facts)
    wrong = input_reasons(facts, settings, length_to_check(request))
    if isinstance(request.model, ModelFacts):
        wrong += agreement_reasons(request.model, request)
    wrong += draft_reasons(request)
    if wrong:
        return refusal(tuple(wrong))
    search = Search(request, facts, Estimator.of(facts, settings, draft_facts(request)))
    search.run()
    answer = with_doubt(request, answer_of(search))
    if not isinstance(request.model, ParameterCount):
        return answer
    if request.max_length == "auto":
        # What the model was trained for is not known: vLLM, which reads it, finds the length that fits.
        answer = replace(answer, max_length=None)
    return as_estimate(request.model, answer)


def length_to_check(request: SizingRequest) -> int | None:
    """The length that config.json must allow: none where vLLM chooses it, or --hf-overrides may raise the limit."""
    return request.max_length if isinstance(request.max_length, int) and not request.overridden else None


def as_estimate(model: ParameterCount, answer: Sizing) -> Sizing:
    """The same answer with the requirement table's arithmetic and verdict."""
    if answer.verdict is Verdict.REFUSED:
        reasons = estimated.refusal_reason(model, answer)
        return replace(answer, reasons=reasons, explanation=explain.refusal(reasons, ""))
    said = f"Estimated by the number of parameters alone: {estimated.arithmetic(model)}. {answer.explanation}"
    return replace(answer, verdict=Verdict.ESTIMATED, explanation=explain.clipped(said))


def answer_of(search: Search) -> Sizing:
    """The cheapest fit, else the cheapest tight fit, else the refusal with the near miss."""
    rejected = tuple(search.rejected[:MOST_REJECTED])
    for verdict, found in ((Verdict.FITS, search.fits), (Verdict.TIGHT, search.tight)):
        if found:
            answer = described(search, verdict, found)
            return replace(answer, rejected=rejected, explanation=explain.choice(search, answer))
    if search.near:
        _, found, reason = search.near
        near = described(search, Verdict.REFUSED, found)
        return refusal((reason,), near, rejected)
    reasons = tuple(dict.fromkeys(one.reason for one in search.rejected))
    said = "No split of the model was possible with the tensor, pipeline and GPU numbers that were asked for."
    return refusal(reasons or (Reason("NoCandidate", said, ReasonKind.INPUT),), None, rejected)


def refusal(reasons: tuple[Reason, ...], near: Sizing | None = None, rejected: tuple[Rejected, ...] = ()) -> Sizing:
    """A refusal; shape and memory are those of the near miss, if there is one."""
    base = near or Sizing(Verdict.REFUSED, "")
    return replace(
        base, verdict=Verdict.REFUSED, reasons=reasons, rejected=rejected, explanation=explain.refusal(reasons, "")
    )


def settings_of(request: SizingRequest, facts: ModelFacts) -> Settings:
    """Engine settings of a request."""
    load = Load(
        batched_tokens=request.max_batched_tokens,
        sequences=request.max_sequences,
        length=request.max_length if isinstance(request.max_length, int) else facts.max_length,
        enforce_eager=request.enforce_eager,
        lora_adapters=request.lora_adapters,
        lora_rank=request.lora_rank,
        speculative=request.speculative_method is not None,
        drafts=request.speculative_method not in {None, "ngram", "suffix"},
        speculative_tokens=request.speculative_tokens,
    )
    vision = facts.is_multimodal and not request.language_model_only
    terms = terms_of(request.engine_version)
    return Settings(
        load,
        terms,
        request.memory_utilization,
        request.kv_cache_dtype,
        vision,
        request.kv_cache_bytes,
        request.prefix_caching,
    )


def described(search: Search, verdict: Verdict, found: Found) -> Sizing:
    """The numbers of a candidate, whatever became of it."""
    candidate, estimate = found.candidate, found.estimate
    limit = search.facts.max_length or search.floor
    length = search.floor
    if not isinstance(search.request.max_length, int):
        length = max(estimate.longest(limit), search.floor if verdict is Verdict.TIGHT else 0)
    shown = length or search.floor
    return Sizing(
        verdict=verdict,
        explanation="",
        gpu=candidate.offer.gpu,
        gpus=candidate.shape.gpus,
        tensor=candidate.shape.tensor,
        pipeline=candidate.shape.pipeline,
        nodes=candidate.nodes,
        expert=candidate.shape.expert,
        max_length=length or None,
        per_gpu=per_gpu(estimate),
        kv_bytes_per_token=bytes_per_token(estimate, shown),
        kv_tokens=tokens(estimate, shown),
        max_concurrency=round(concurrency(estimate, shown), 2),
    )


def _gib(term: Bytes) -> Band:
    return Band(round(max(0.0, term.low) / GIB, 3), round(max(0.0, term.high) / GIB, 3))


def per_gpu(estimate: Estimate) -> PerGPU:
    """Where the memory of the fullest GPU goes."""
    worst = estimate.worst
    return PerGPU(
        capacity=estimate.gpu.memory_gib,
        weights=round(worst.weights.low / GIB, 3),
        activations=_gib(worst.transient),
        graphs=_gib(worst.graphs),
        other=_gib(worst.other),
        kv_cache=_gib(worst.available),
        reserve=round(estimate.gpu.memory_gib - worst.requested / GIB, 3),
        draft=round(worst.draft / GIB, 3),
    )


def tokens(estimate: Estimate, length: int) -> Band:
    """Tokens that the pools of all stages hold, as vLLM counts them."""
    stages = estimate.stages
    return Band(
        float(min(stage.pool.tokens(stage.available.low, length) for stage in stages)),
        float(min(stage.pool.tokens(stage.available.high, length) for stage in stages)),
    )


def concurrency(estimate: Estimate, length: int) -> float:
    """Requests of that length at once, conservatively."""
    return min(stage.pool.concurrency(stage.available.low, length) for stage in estimate.stages)


def bytes_per_token(estimate: Estimate, length: int) -> int:
    """KV cache bytes of a token on the fullest GPU, at requests of that length."""
    pool = estimate.worst.pool
    return round(pool.block_bytes * pool.blocks_per_request(length) / max(1, length))
