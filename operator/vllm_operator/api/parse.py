"""From the YAML of a resource to a checked, immutable one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vllm_operator.api import API_VERSION, KIND
from vllm_operator.api.fields import MAX_NAME, is_subdomain
from vllm_operator.api.spec import Spec
from vllm_operator.api.strict import unknown_fields
from vllm_operator.errors import InvalidSpec, Problem

MOST_LEVELS = 100
"""Of free-form fields, in each other: far more than any pod or config.json has, and few enough for any recursion."""

# pydantic's kinds of error, in the words of the API server (k8s.io/apimachinery, pkg/util/validation/field/errors.go).
_WORDS = {
    "missing": "required value",
    "string_type": "must be of type string",
    "int_type": "must be of type integer",
    "float_type": "must be of type number",
    "bool_type": "must be of type boolean",
    "tuple_type": "must be of type array",
    "dict_type": "must be of type object",
    "model_type": "must be of type object",
    "literal_error": "must be one of the supported values: {expected}",
    "enum": "must be one of the supported values: {expected}",
    "string_too_short": "should be at least {min_length} chars long",
    "string_too_long": "too long: may not be more than {max_length} bytes",
    "too_short": "should have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "greater_than": "should be greater than {gt:g}",
    "greater_than_equal": "should be greater than or equal to {ge:g}",
    "less_than_equal": "should be less than or equal to {le:g}",
    "value_error": "{error}",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A VLLMDeployment: who it is and what it asks for."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Spec


def _path(parts: tuple[str | int, ...]) -> str:
    """`spec.engine.env[0].name`, as the API server writes it."""
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _sentence(error: ErrorDetails) -> Problem:
    context = dict(error.get("ctx") or {})
    if "expected" in context:
        context["expected"] = context["expected"].replace("'", '"').replace(" or ", ", ")
    text = _WORDS[error["type"]].format(**context) if error["type"] in _WORDS else error["msg"]
    given = error.get("input")
    if error["type"] != "missing" and isinstance(given, str | int | float):
        text = f"{given!r} is refused: {text}"
    return Problem(_path(error["loc"]), text)


def _too_deep(raw: object) -> tuple[Problem, ...]:
    """One problem for each field that holds more levels of objects and lists than anything of use does."""
    fields = raw if isinstance(raw, Mapping) else {}
    sentence = f"must have at most {MOST_LEVELS} levels of objects and lists"
    return tuple(Problem(f"spec.{name}", sentence) for name, value in fields.items() if _is_deeper(value, MOST_LEVELS))


def _is_deeper(value: object, levels: int) -> bool:
    """Whether there are more than so many objects and lists in each other. Without recursion: there may be many."""
    layer = [value]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, Mapping) else one for one in layer if isinstance(one, Mapping | list)]
        if not inner:
            return False
        layer = [child for children in inner for child in children]
    return any(isinstance(one, Mapping | list) for one in layer)


def parse_spec(raw: Mapping[str, Any]) -> Spec:
    """A checked spec; InvalidSpec lists all that is wrong with it, in the words that the API server would use."""
    if problems := _too_deep(raw):
        raise InvalidSpec(problems)
    try:
        return Spec.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidSpec(tuple(_sentence(detail) for detail in error.errors())) from error


def check_kind(raw: Mapping[str, Any]) -> None:
    """Raise InvalidSpec when a document is not a VLLMDeployment of this version."""
    found = (raw.get("apiVersion"), raw.get("kind"))
    if found != (API_VERSION, KIND):
        raise InvalidSpec(
            (Problem("kind", f"expected {API_VERSION} {KIND}, found {found[0]} {found[1]}"),), "WrongKind"
        )


def _name(metadata: object) -> str:
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not name:
        raise InvalidSpec((Problem("metadata.name", "a resource needs a name"),))
    if not isinstance(name, str) or not is_subdomain(name):
        sentence = (
            f"{name!r} is refused: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, "
            f"'-' or '.', begin and end with an alphanumeric character, and be no more than {MAX_NAME} characters"
        )
        raise InvalidSpec((Problem("metadata.name", sentence),))
    return name


def parse(raw: Mapping[str, Any], default_namespace: str = "default") -> Resource:
    """A checked resource from its YAML; InvalidSpec as `parse_spec`. Files have no uid: theirs is empty."""
    name = _name(raw.get("metadata"))
    metadata = raw["metadata"]
    if raw.get("spec") is None:
        raise InvalidSpec((Problem("spec", "required value"),))
    return Resource(
        name=name,
        namespace=metadata.get("namespace") or default_namespace,
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        spec=parse_spec(raw["spec"]),
    )


def parse_manifest(raw: Mapping[str, Any], default_namespace: str = "default") -> Resource:
    """A resource from a file, held to what `kubectl apply` demands of it: the kind is checked and no field is unknown.

    `parse` is for what an API server has stored; it lets fields of newer versions pass.
    """
    check_kind(raw)
    if problems := unknown_fields(raw):
        raise InvalidSpec(problems)
    return parse(raw, default_namespace)
