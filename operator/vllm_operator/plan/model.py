"""Which model it is: facts by hand, the operator's own table, the catalogue, the parameter count in its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_operator.api.base import without_nulls
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import hub_id, is_cpu
from vllm_operator.engine.source import parse_source, served_names
from vllm_operator.errors import InvalidSpec, Problem
from vllm_operator.plan.types import Inspection, ResolvedModel
from vllm_operator.sizing.catalogue import lookup, parameters_from_name
from vllm_operator.sizing.drafting import METHOD as DRAFTING
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.tables import Tables
from vllm_operator.sizing.types import ParameterCount
from vllm_operator.sizing.weights import GIB, Shape, weights

INSPECTED = "its config.json"
_BYTES_AT_16_BIT = 2.0
_MOST_BILLIONS, _MOST_BYTES = 100_000.0, 8.0


def _number(given: Mapping[str, Any], name: str, most: float, meaning: str) -> float:
    """A number above zero; InvalidSpec for anything else that may stand in free-form facts."""
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise InvalidSpec((Problem(f"spec.model.facts.{name}", f"{value!r} is refused: must be {meaning}"),))
    return float(value)


def _counted(given: Mapping[str, Any], name: str) -> ParameterCount:
    filled = {"bytesPerParameter": _BYTES_AT_16_BIT, **given}
    billions = _number(filled, "parameters", _MOST_BILLIONS, "a number of billions such as 7.6")
    return ParameterCount(name, billions, _number(filled, "bytesPerParameter", _MOST_BYTES, "a number such as 0.5"))


def _by_hand(spec: Spec) -> ModelFacts | ParameterCount:
    given, name = without_nulls(spec.model.facts), served_names(spec.model)[0]
    if "parameters" in given and "hidden_size" not in given:
        return _counted(given, name)
    facts = facts_from_config(given, name=name)
    if facts.problem:
        raise InvalidSpec((Problem("spec.model.facts", facts.problem),), "ConfigUnreadable")
    return facts


def weights_gib(model: ModelFacts | ParameterCount) -> float:
    """Size of the weights in GiB, all of them on one GPU; about that of the files, too."""
    if isinstance(model, ParameterCount):
        return model.billions * 1e9 * model.bytes_per_parameter / GIB
    if model.file_bytes:
        return model.file_bytes / GIB
    return sum(stage.total for stage in weights(model, Shape())) / GIB


def is_sized(spec: Spec) -> bool:
    """Whether a memory model is asked at all: not for the CPU backend, nor with `sizing.mode: Off`."""
    return not is_cpu(spec) and spec.sizing.mode != "Off"


def _inspected(spec: Spec, name: str, found: Inspection) -> ModelFacts | None:
    """Facts of the config that a Job has read, if it has; of one that cannot be sized, and need not be, nothing."""
    if found.config is None:
        return None
    facts = facts_from_config(found.config, name=name, file_bytes=found.weight_bytes)
    if facts.problem and not is_sized(spec):
        return None
    if facts.problem:
        sentence = f"its config.json cannot be sized: {facts.problem}; say its numbers in spec.model.facts"
        raise InvalidSpec((Problem("spec.model.source", sentence),), "ConfigUnreadable")
    return facts


def resolve_model(spec: Spec, tables: Tables, inspection: Inspection | None = None) -> ResolvedModel:
    """The model with what is known of it; InvalidSpec when facts given by hand cannot be read."""
    source = parse_source(spec.model.source)
    name = served_names(spec.model)[0]
    if spec.model.facts:
        return ResolvedModel(name, spec.model.revision, _by_hand(spec), "spec.model.facts")
    repository = source.location if source.is_downloaded else source.path or source.location
    if added := tables.models.get(repository):
        return ResolvedModel(name, spec.model.revision, added, "the operator's own table")
    if facts := lookup(repository):
        return ResolvedModel(name, spec.model.revision, facts, "the catalogue")
    if inspection and (read := _inspected(spec, name, inspection)):
        return ResolvedModel(name, spec.model.revision, read, INSPECTED)
    if count := parameters_from_name(repository):
        return ResolvedModel(name, spec.model.revision, count, "the parameter count in its name", guessed=True)
    return ResolvedModel(name, spec.model.revision, None, "nothing", guessed=True)


def resolve_draft(spec: Spec, tables: Tables) -> ModelFacts | ParameterCount | None:
    """What is known of the draft model; None for nothing, and for methods that load no whole model."""
    asked = spec.engine.speculative
    if asked is None or asked.method != DRAFTING or not asked.model:
        return None
    repository = hub_id(asked.model)
    return tables.models.get(repository) or lookup(repository) or parameters_from_name(repository)


def unknown_model(spec: Spec) -> Problem:
    """The sentence for a model that cannot be sized at all."""
    return Problem(
        "spec.model.source",
        f"{spec.model.source} is in no catalogue and its name holds no parameter count: put the numbers of its "
        "config.json (or parameters, in billions) into spec.model.facts, or set sizing.mode Off and gpu.count",
    )
