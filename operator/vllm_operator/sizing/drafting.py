"""A draft model: a whole model beside the one that is served, with weights and a KV cache of its own.

The last pipeline stage holds all of it, split over as many ranks as the model is (config/speculative.py
create_draft_parallel_config, v1/spec_decode/draft_model.py, v1/worker/gpu/model_runner.py); it shares no embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vllm_operator.sizing import estimated
from vllm_operator.sizing.explain import clipped
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.online import as_requested
from vllm_operator.sizing.types import ParameterCount, Reason, ReasonKind, Sizing, SizingRequest, Verdict

METHOD = "draft_model"
"""The only method that loads a whole model; the others' heads are bounded by the model's own layers."""


def draft_facts(request: SizingRequest) -> ModelFacts | None:
    """Facts of the draft model as it is loaded, in the model's dtype and its own quantisation; None: none is known."""
    if request.speculative_method != METHOD or request.draft is None:
        return None
    known = request.draft
    facts = estimated.facts_of(known) if isinstance(known, ParameterCount) else known
    return as_requested(facts, replace(request, quantization=None))


def draft_reasons(request: SizingRequest) -> Iterator[Reason]:
    """Why the draft model goes with no split of the model.

    Source: config/speculative.py verify_equal_vocab_size_if_draft_model.
    """
    draft = request.draft
    if request.speculative_method != METHOD or not isinstance(draft, ModelFacts):
        return
    if draft.problem:
        said = f"The draft model {draft.name} cannot be sized: {draft.problem}."
        yield Reason("ConfigUnreadable", said, ReasonKind.INPUT)
    elif isinstance(request.model, ModelFacts) and request.model.vocabulary not in {0, draft.vocabulary}:
        said = (
            "Target and draft model should have the same vocabulary size. Target model vocab_size="
            f"{request.model.vocabulary}. Draft model vocab_size={draft.vocabulary}. Name a draft model that was made "
            f"for {request.model.name}, or speculate with ngram."
        )
        yield Reason("DraftVocabularyDiffers", said, ReasonKind.VALIDITY)


def of_draft(draft: ModelFacts, reasons: list[Reason]) -> list[Reason]:
    """The same reasons, said of the draft model."""
    return [replace(reason, message=f"Draft model {draft.name}: {reason.message}") for reason in reasons]


def with_doubt(request: SizingRequest, answer: Sizing) -> Sizing:
    """The same answer, no surer than what is known of the draft model."""
    doubt = _doubt(request)
    if not doubt or answer.verdict is Verdict.REFUSED:
        return answer
    verdict = Verdict.ESTIMATED if answer.verdict is Verdict.FITS else answer.verdict
    return replace(answer, verdict=verdict, explanation=clipped(f"{doubt} {answer.explanation}"))


def _doubt(request: SizingRequest) -> str:
    if request.speculative_method != METHOD or isinstance(request.draft, ModelFacts):
        return ""
    if request.draft is None:
        return (
            "Nothing is known of the draft model: it was counted as one layer, an embedding and an output layer of the "
            "model, and may take far more."
        )
    return f"The draft model is estimated by its number of parameters alone: {estimated.arithmetic(request.draft)}."
