"""The nearest fit of a refusal: the one change that would make it work, found by asking again, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vllm_operator.sizing import agreement, catalogue, drafting, gpus
from vllm_operator.sizing.types import Offer, ParameterCount, ReasonKind, Sizing, SizingRequest, Verdict

Assess = Callable[[SizingRequest], Sizing]

NONE = "No single change that was tried makes it fit."


@dataclass(frozen=True, slots=True)
class Change:
    """A request that differs in one thing, and words for the difference."""

    words: str
    request: SizingRequest
    length: bool = False  # the words get the longest length that fits


def nearest_fit(request: SizingRequest, answer: Sizing, assess: Assess) -> str:
    """One sentence naming the first change that fits, or that none does."""
    if (
        any(reason.code in {"ConfigUnreadable", "UnsupportedQuantization"} for reason in answer.reasons)
        and not answer.rejected
    ):
        return "Give the model's numbers by hand (facts), or size it by its number of parameters."
    for change in changes(request, answer):
        found = assess(change.request)
        if found.verdict in {Verdict.FITS, Verdict.ESTIMATED}:
            return _sentence(change, found)
    return NONE


def _sentence(change: Change, found: Sizing) -> str:
    words = change.words
    if change.length and found.max_length:
        words = f"{words} {found.max_length:,} tokens"
    name = found.gpu.name if found.gpu else ""
    split = f"TP {found.tensor}" + (f" x PP {found.pipeline}" if found.pipeline > 1 else "")
    nodes = f" on {found.nodes} nodes" if found.nodes > 1 else ""
    return f"It fits with {words}: {found.gpus} x {name} ({split}{nodes})."


def unsplit(request: SizingRequest) -> SizingRequest:
    """The same with the split left open; one node stays one node."""
    return replace(request, gpus=None, tensor=None, pipeline=None, nodes=1 if request.nodes == 1 else None)


def changes(request: SizingRequest, answer: Sizing) -> Iterator[Change]:
    """Single changes to try, the least intrusive first."""
    yield from _input_changes(request, answer)
    if isinstance(request.max_length, int):
        yield Change("maximum length", replace(request, max_length="auto"), length=True)
    if request.kv_cache_dtype == "auto" and _has_fp8_cache(request):
        yield Change("an FP8 KV cache", replace(request, kv_cache_dtype="fp8"))
    if request.max_sequences > 64 and any(reason.code == "StateCacheTooSmall" for reason in answer.reasons):  # noqa: PLR2004
        yield Change("64 sequences at once", replace(request, max_sequences=64))
    if request.gpus or request.tensor or request.pipeline or (request.nodes or 1) > 1:
        yield Change("the split left to the operator", _free(request))
    if not request.expert:
        yield Change("expert parallelism", replace(request, expert=True))
    if request.memory_utilization < 0.95:  # noqa: PLR2004 - the highest utilisation worth proposing
        yield Change("memory utilization 0.95", replace(request, memory_utilization=0.95))
    if request.speculative_method == drafting.METHOD:
        yield Change("no draft model", replace(request, speculative_method=None, speculative_tokens=0, draft=None))
    yield from _model_changes(request)
    yield from _card_changes(request)


def _free(request: SizingRequest) -> SizingRequest:
    """The same with the split left open; what must stay on one node stays there."""
    return replace(request, gpus=None, tensor=None, pipeline=None, nodes=1 if request.nodes == 1 else None)


def _input_changes(request: SizingRequest, answer: Sizing) -> Iterator[Change]:
    codes = {reason.code for reason in answer.reasons if reason.kind is ReasonKind.INPUT}
    if "BatchTooSmall" in codes:
        fixed = replace(request, max_batched_tokens=request.max_sequences)
        yield Change(f"{request.max_sequences} batched tokens", fixed)
    if "LengthBeyondModel" in codes:
        yield Change("maximum length", replace(request, max_length="auto"), length=True)
    if any(reason.code == agreement.CODE for reason in answer.reasons):
        yield Change("quantization left unset", replace(request, quantization=None))
    if any(reason.code == "HeadroomTooSmall" for reason in answer.reasons):
        yield Change("memory utilization 0.9", replace(request, memory_utilization=0.9))
    if any(reason.code == "UnsupportedDtype" for reason in answer.reasons) and request.dtype != "half":
        yield Change("dtype half", replace(request, dtype="half"))


def _has_fp8_cache(request: SizingRequest) -> bool:
    return all((offer.gpu.capability or 0) >= 89 for offer in request.offers)  # noqa: PLR2004 - 8.9 is the first with FP8


def _model_changes(request: SizingRequest) -> Iterator[Change]:
    model = request.model
    if isinstance(model, ParameterCount):
        if model.bytes_per_parameter > 1:
            yield Change("an FP8 checkpoint", replace(request, model=replace(model, bytes_per_parameter=1.0)))
        return
    for name in catalogue.variants(model.name):
        facts = catalogue.lookup(name)
        if facts is not None:
            yield Change(f"the quantised checkpoint {name}", replace(request, model=facts))
    if model.quantization is None and request.quantization is None:
        yield Change("quantization fp8 while loading", replace(request, quantization="fp8"))


def _card_changes(request: SizingRequest) -> Iterator[Change]:
    """Cards that are not on offer, cheapest first; as many on one node as are usual."""
    offered = {offer.gpu.product for offer in request.offers}
    free = _free(request)
    cards = [gpu for gpu in gpus.gpus().values() if gpu.product not in offered and gpu.vendor == "nvidia"]
    if request.gpus:
        for gpu in sorted(cards, key=lambda one: one.weight):
            if request.gpus <= max(gpu.gpus_per_node, default=1):
                yield Change(f"{gpu.name} instead", replace(request, offers=(Offer(gpu, request.gpus, 1),)))
    for gpu in sorted(cards, key=lambda one: one.weight * max(one.gpus_per_node, default=1)):
        offer = Offer(gpu, max(gpu.gpus_per_node, default=1), 1)
        yield Change(f"{gpu.name} instead", replace(free, offers=(offer,)))
