"""What every model of the resource stands on: camelCase aliases, and rules said once for CEL and Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from vllm_operator.api.fields import ObjectName, SecretKey


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the resource, once for the API server (CEL) and once for Python; a test proves that they agree."""

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def schema(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.message}


def _add_rules(schema: dict[str, Any], model: type[BaseModel]) -> None:
    rules: tuple[Rule, ...] = getattr(model, "RULES", ())
    if rules:
        schema["x-kubernetes-validations"] = [rule.schema() for rule in rules]


def without_nulls(value: Any) -> Any:  # noqa: ANN401 - whatever a user wrote
    """A mapping without its nulls: to the API server `field: null` is a field that was left out."""
    if isinstance(value, Mapping):
        return {key: child for key, child in value.items() if child is not None}
    return value


class ApiObject(BaseModel):
    """An object of the resource: immutable, camelCase outside.

    Unknown fields are ignored, so that an older operator survives newer specs.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=_add_rules,
        use_attribute_docstrings=True,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a user wrote
        return without_nulls(value)

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule.message for rule in self.RULES if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


class SecretKeyRef(ApiObject):
    """One key of a Secret in the resource's namespace."""

    name: ObjectName
    """Name of the Secret."""

    key: SecretKey
    """Key inside the Secret."""
