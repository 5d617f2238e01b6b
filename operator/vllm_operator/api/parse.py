"""From the YAML of a resource to a checked, immutable one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vllm_operator.api import API_VERSION, KIND
from vllm_operator.api.spec import Spec
from vllm_operator.errors import InvalidSpec, Problem


@dataclass(frozen=True, slots=True)
class Resource:
    """A VLLMDeployment: who it is and what it asks for."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Spec


def _sentence(error: ErrorDetails) -> Problem:
    path = ".".join(str(part) for part in ("spec", *error["loc"]))
    text = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    if error["type"] != "missing" and isinstance(given, str | int | float):
        return Problem(path, f"{given!r} is refused: {text[:1].lower()}{text[1:]}")
    return Problem(path, f"{text[:1].lower()}{text[1:]}")


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """A checked spec; InvalidSpec lists all that is wrong with it, in the words that the API server would use."""
    try:
        return Spec.model_validate(raw)
    except ValidationError as error:
        raise InvalidSpec(tuple(_sentence(detail) for detail in error.errors())) from error


def check_kind(raw: Mapping[str, Any]) -> None:
    """Raise InvalidSpec when a document is not a VLLMDeployment of this version."""
    found = (raw.get("apiVersion"), raw.get("kind"))
    if found != (API_VERSION, KIND):
        raise InvalidSpec(
            (Problem("kind", f"expected {API_VERSION} {KIND}, found {found[0]} {found[1]}"),), "WrongKind"
        )


def parse(raw: Mapping[str, Any], default_namespace: str = "default") -> Resource:
    """A checked resource from its YAML; InvalidSpec as `parse_spec`. Files have no uid: theirs is empty."""
    metadata = raw.get("metadata") or {}
    if not metadata.get("name"):
        raise InvalidSpec((Problem("metadata.name", "a resource needs a name"),))
    return Resource(
        name=metadata["name"],
        namespace=metadata.get("namespace") or default_namespace,
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        spec=parse_spec(raw.get("spec") or {}),
    )
