"""One search over the offers of a request: which candidates hold the model, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vllm_operator.sizing.candidates import Candidate, candidates, first_splits, inventory_reason
from vllm_operator.sizing.drafting import of_draft
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.gpus import GPU
from vllm_operator.sizing.memory import Estimate, Estimator, drafted
from vllm_operator.sizing.rules import card_reasons, headroom_reasons, memory_reason, shape_reasons
from vllm_operator.sizing.types import Offer, Reason, ReasonKind, Rejected, SizingRequest
from vllm_operator.sizing.weights import Shape

SHORTEST_AUTO = 8192
"""With an automatic length a shape counts as fitting when it holds at least this many tokens (or the model's limit)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate and its estimate."""

    candidate: Candidate
    estimate: Estimate

    @property
    def order(self) -> tuple[float, tuple[int, int, int, int]]:
        """Cheapest first, then the simplest."""
        return (self.candidate.cost, self.candidate.order)


@dataclass(slots=True)
class Search:
    """Looks at every offer. Reasons that do not depend on the card are found once per shape."""

    request: SizingRequest
    facts: ModelFacts
    estimator: Estimator
    rejected: list[Rejected] = field(default_factory=list)
    fits: Found | None = None
    tight: Found | None = None
    near: tuple[float, Found, Reason] | None = None
    _reasons: dict[Shape, tuple[Reason, ...]] = field(default_factory=dict)
    _advised: dict[str, Reason] = field(default_factory=dict)  # cards that would do, but not what is meant

    @property
    def floor(self) -> int:
        """Tokens that one request must be able to have."""
        if isinstance(self.request.max_length, int):
            return self.request.max_length
        return min(SHORTEST_AUTO, self.facts.max_length or SHORTEST_AUTO)

    def run(self) -> None:
        """Look at all offers, the cheapest cards first."""
        for offer in sorted(self.request.offers, key=lambda one: (one.gpu.weight, one.gpu.product)):
            for candidate in self._candidates(offer):
                if self._take(candidate):
                    break

    def _candidates(self, offer: Offer) -> Iterator[Candidate]:
        """Candidates of an offer that break no rule; an offer or a shape that breaks one is noted."""
        wrong = inventory_reason(self.request, offer)
        reasons = [wrong] if wrong else self._card_reasons(offer.gpu)
        if reasons:
            self.rejected.append(Rejected(offer.gpu.name, reasons[0]))
            if reasons[0].kind is not ReasonKind.ADVICE:
                return
            self._advised[offer.gpu.product] = reasons[0]
        chosen = {(one.shape.gpus, one.nodes): one for one in candidates(self.request, offer, self.is_valid)}
        for first in first_splits(self.request, offer):
            reasons = list(self.shape_reasons(first.shape))
            if reasons:
                self.rejected.append(Rejected(str(first), reasons[0]))
            found = chosen.get((first.shape.gpus, first.nodes))
            if found:
                yield found

    def _card_reasons(self, gpu: GPU) -> list[Reason]:
        """What the card cannot compute, of the model or else of its draft model."""
        found = card_reasons(self.facts, gpu, self.request.dtype)
        draft = self.estimator.draft
        return found or (of_draft(draft, card_reasons(draft, gpu, self.request.dtype)) if draft else [])

    def is_valid(self, shape: Shape) -> bool:
        """Whether vLLM would take the split."""
        return not self.shape_reasons(shape)

    def shape_reasons(self, shape: Shape) -> tuple[Reason, ...]:
        """Why the model, or its draft model, cannot be split like that."""
        if shape not in self._reasons:
            found = shape_reasons(self.facts, shape, self.estimator.settings)
            self._reasons[shape] = (*found, *self._draft_reasons(shape))
        return self._reasons[shape]

    def _draft_reasons(self, shape: Shape) -> list[Reason]:
        draft = self.estimator.draft
        if draft is None or not draft.known:  # the heads of a stand-in are not the model's
            return []
        return of_draft(draft, shape_reasons(draft, drafted(draft, shape), self.estimator.settings))

    def _take(self, candidate: Candidate) -> bool:
        """Look at one candidate; true when it fits, so that larger ones of the offer need no look."""
        if self.fits and self.fits.order[0] < candidate.cost:
            return True
        gpu = candidate.offer.gpu
        headroom = headroom_reasons(gpu, candidate.shape, self.estimator.settings.utilization)
        if headroom:
            self.rejected.append(Rejected(str(candidate), headroom[0]))
            return False
        found = Found(candidate, self.estimator.estimate(gpu, candidate.shape))
        if found.estimate.holds(self.floor):
            if advised := self._advised.get(gpu.product):
                self.near = (-1.0, found, advised)  # nearer than any that lacks memory
            elif not self.fits or found.order < self.fits.order:
                self.fits = found
            return True
        self._note(found)
        return False

    def _note(self, found: Found) -> None:
        """Keep a candidate that does not fit as tight or as the near miss."""
        reason = memory_reason(self.facts, found.estimate, self.floor, exact=isinstance(self.request.max_length, int))
        self.rejected.append(Rejected(str(found.candidate), reason))
        if found.estimate.holds(self.floor, optimistic=True):
            if not self.tight or found.order < self.tight.order:
                self.tight = found
            return
        missing = max(
            (stage.pool.needed(self.floor) - stage.available.low) / stage.requested for stage in found.estimate.stages
        )
        if not self.near or missing < self.near[0]:
            self.near = (missing, found, reason)
