"""Types of single fields: as strict as the API server is, with a sentence where a pattern would be shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class Matching:
    r"""A string that matches a pattern from end to end, checked by CEL and by Python.

    A schema's own `pattern` would answer with the pattern; this answers with a sentence. Patterns spell out their
    characters: `\w` and `\s` mean ASCII to the API server (RE2) and Unicode to Python.
    """

    pattern: str
    message: str
    max_length: int

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        """The check that pydantic runs."""
        text = core_schema.str_schema(strict=True, max_length=self.max_length)
        return core_schema.no_info_after_validator_function(self._check, text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The check that the API server runs."""
        rule = {"rule": f"self.matches(r'^({self.pattern})$')", "message": self.message}
        return {**handler(schema), "x-kubernetes-validations": [rule]}

    def _check(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(self.message)
        return value


def _whole(value: object) -> object:
    """2.0 is 2 in JSON, and kubectl sends it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The API server takes no "3" for 3 and no "true" for true: neither may a file that is checked offline.
Bool = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]


@dataclass(frozen=True, slots=True)
class Between:
    """A whole number with its bounds, both included."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: type[int], handler: GetCoreSchemaHandler) -> CoreSchema:
        """A strict integer, but for 2.0."""
        bounded = core_schema.int_schema(strict=True, ge=self.low, le=self.high)
        return core_schema.no_info_before_validator_function(_whole, bounded)


def _checked(cel: str, message: str, holds: Callable[[Any], bool], max_length: int) -> tuple[Any, ...]:
    """Annotations of a field that is a number or a string, and obeys a rule."""

    def check(value: object) -> object:
        # bool is an int in Python and is neither a number nor a string for the API server
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"must be of type integer,string; {message}")  # noqa: TRY004 - pydantic reports ValueError
        if not holds(value):
            raise ValueError(message)
        return value

    schema = {
        "x-kubernetes-int-or-string": True,
        "maxLength": max_length,
        "x-kubernetes-validations": [{"rule": cel, "message": message}],
    }
    return BeforeValidator(check), BeforeValidator(_whole), WithJsonSchema(schema)


def _int_or_auto(low: int, high: int) -> tuple[Any, ...]:
    return _checked(
        f"type(self) == int ? self >= {low} && self <= {high} : self == 'auto'",
        f"must be auto or a whole number from {low} to {high}",
        lambda value: value == "auto" or (isinstance(value, int) and low <= value <= high),
        max_length=16,
    )


GPUCount = Annotated[int | str, *_int_or_auto(0, 64)]
ParallelSize = Annotated[int | str, *_int_or_auto(1, 64)]
NodeCount = Annotated[int | str, *_int_or_auto(1, 16)]
ModelLength = Annotated[int | str, *_int_or_auto(1, 16_777_216)]

# Quantities of bytes above zero (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/);
# no thousandths of a byte.
_POSITIVE_QUANTITY = r"([1-9][0-9]*(\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*)([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?"
_QUANTITY_MESSAGE = "must be a quantity of bytes such as 80Gi or 500Mi"


def _is_quantity(value: int | str) -> bool:
    return re.fullmatch(_POSITIVE_QUANTITY, str(value)) is not None


Quantity = Annotated[
    str,
    BeforeValidator(str),
    *_checked(
        f"type(self) == int ? self > 0 : self.matches(r'^({_POSITIVE_QUANTITY})$')",
        _QUANTITY_MESSAGE,
        _is_quantity,
        max_length=32,
    ),
]
QuantityOrAuto = Annotated[
    str,
    BeforeValidator(str),
    *_checked(
        f"type(self) == int ? self > 0 : self.matches(r'^(auto|{_POSITIVE_QUANTITY})$')",
        f"must be auto, or {_QUANTITY_MESSAGE.removeprefix('must be ')}",
        lambda value: value == "auto" or _is_quantity(value),
        max_length=32,
    ),
]

# RFC 1123 subdomain: names of objects.
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
MAX_NAME = 253
_LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_HUB_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
# What may follow a claim or bucket: never empty, "." or "..".
_PATH_PART = r"[A-Za-z0-9_][A-Za-z0-9_.=-]*"


def is_subdomain(text: str) -> bool:
    """Whether an object may be called so."""
    return len(text) <= MAX_NAME and re.fullmatch(SUBDOMAIN, text) is not None


_OBJECT_NAME_MESSAGE = "must be the name of an object: lower-case letters, digits, - and ."
ObjectName = Annotated[str, Matching(SUBDOMAIN, _OBJECT_NAME_MESSAGE, MAX_NAME)]
OptionalObjectName = Annotated[str, Matching(f"({SUBDOMAIN})?", _OBJECT_NAME_MESSAGE, MAX_NAME)]
LabelName = Annotated[
    str, Matching(_LABEL_VALUE, "must be letters, digits, -, _ and ., and begin and end with a letter or digit", 63)
]
OptionalLabelName = Annotated[
    str,
    Matching(
        f"({_LABEL_VALUE})?", "must be letters, digits, -, _ and ., as in the node label nvidia.com/gpu.product", 63
    ),
]
ResourceName = Annotated[
    str, Matching(rf"{SUBDOMAIN}/{_LABEL_VALUE}", "must be an extended resource such as nvidia.com/gpu", 120)
]
SecretKey = Annotated[str, Matching(r"[-._a-zA-Z0-9]+", "must be a key: letters, digits, -, _ and .", 253)]
EnvName = Annotated[
    str, Matching(r"[A-Za-z_][A-Za-z0-9_]*", "must be letters, digits and _, and not begin with a digit", 128)
]
ServedName = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9_./:@+][-A-Za-z0-9_./:@+]*", "must be letters, digits and -_./:@+, and not begin with a dash", 128
    ),
]
ParserName = Annotated[
    str, Matching(r"[A-Za-z0-9_][-A-Za-z0-9_.]*", "must be the name of a parser, such as hermes", 128)
]
Revision = Annotated[
    str, Matching(r"[A-Za-z0-9_][-A-Za-z0-9_./]*", "must be a branch, a tag or a commit, such as main", 128)
]
HubAddress = Annotated[str, Matching(f"hf://{_HUB_PART}/{_HUB_PART}", "must be hf://organisation/name", 256)]
Source = Annotated[
    str,
    Matching(
        f"hf://{_HUB_PART}/{_HUB_PART}|pvc://{SUBDOMAIN}(/{_PATH_PART})*/?|s3://[a-z0-9][a-z0-9.-]*(/{_PATH_PART})*/?|"
        r"oci://[a-z0-9][A-Za-z0-9_.:/-]*(@sha256:[0-9a-f]{64})?",
        "must be hf://organisation/name, pvc://claim/path, s3://bucket/prefix or oci://repository@sha256:...",
        512,
    ),
]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Port = Annotated[int, Between(1, 65535)]

# Objects that Kubernetes itself defines and that pass through: their schema is the API server's business at apply time.
Passthrough = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]


def has_version(image: str) -> bool:
    """Whether an image reference names a digest, or a tag other than `latest`."""
    if re.search(r"@sha256:[0-9a-f]{64}\Z", image):
        return True
    tag = re.search(r":([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})\Z", image)
    return tag is not None and tag.group(1) != "latest"
