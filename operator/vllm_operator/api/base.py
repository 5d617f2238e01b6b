"""What every model of the resource stands on: camelCase aliases, rules said once for CEL and Python, scalar types."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from vllm_operator.api.quantity import is_quantity


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

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule.message for rule in self.RULES if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


def checked(cel: str, message: str, holds: Callable[[Any], bool], **schema: Any) -> Any:  # noqa: ANN401
    """Annotation for a field whose single value obeys a rule; extra `schema` keys replace what pydantic would emit."""

    def check(value: Any) -> Any:  # noqa: ANN401
        if not holds(value):
            raise ValueError(message)
        return value

    rule = {"x-kubernetes-validations": [{"rule": cel, "message": message}]}
    return (AfterValidator(check), WithJsonSchema({**schema, **rule}))


def _int_or_auto(low: int, high: int) -> Any:  # noqa: ANN401
    message = f"must be auto or a whole number from {low} to {high}"

    def coerce(value: object) -> object:
        # bool is an int in Python and is neither a number nor a string for the API server
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(message)  # noqa: TRY004 - pydantic turns only ValueError into a report
        return value

    check, schema = checked(
        f"type(self) == int ? self >= {low} && self <= {high} : self == 'auto'",
        message,
        lambda value: value == "auto" or (isinstance(value, int) and low <= value <= high),
        **{"x-kubernetes-int-or-string": True, "maxLength": 16},
    )
    return Annotated[int | str, BeforeValidator(coerce), check, schema]


GPUCount = _int_or_auto(0, 64)
ParallelSize = _int_or_auto(1, 64)
NodeCount = _int_or_auto(1, 16)
ModelLength = _int_or_auto(1, 16_777_216)

QUANTITY_PATTERN = r"^[+]?[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE]|m|[eE][0-9]+)?$"


def _quantity(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not is_quantity(text):
        raise ValueError("must be a Kubernetes quantity of bytes such as 80Gi or 500Mi")
    return text


Quantity = Annotated[
    str,
    BeforeValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32, "pattern": QUANTITY_PATTERN}),
]


def _quantity_or_auto(value: object) -> str:
    return "auto" if value == "auto" else _quantity(value)


QuantityOrAuto = Annotated[
    str,
    BeforeValidator(_quantity_or_auto),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32, "pattern": rf"^auto$|{QUANTITY_PATTERN}"}),
]

ObjectName = Annotated[str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
LabelName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
ResourceName = Annotated[
    str, StringConstraints(max_length=120, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
SecretKey = Annotated[str, StringConstraints(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
EnvName = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Word = Annotated[str, StringConstraints(max_length=128, pattern=r"^\S+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]

# Objects that Kubernetes itself defines and that pass through: their schema is the API server's business at apply time.
Passthrough = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]


def has_version(image: str) -> bool:
    """Whether an image reference names a digest, or a tag other than `latest`."""
    if re.search(r"@sha256:[0-9a-f]{64}$", image):
        return True
    tag = re.search(r":([\w][\w.-]{0,127})$", image)
    return tag is not None and tag.group(1) != "latest"


class SecretKeyRef(ApiObject):
    """One key of a Secret in the resource's namespace."""

    name: ObjectName
    """Name of the Secret."""

    key: SecretKey
    """Key inside the Secret."""


Port = Annotated[int, Field(ge=1, le=65535)]
