"""A request to the API server as a value: where it goes, how its body is written, how its answer is read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from vllm_operator.errors import Transient
from vllm_operator.kinds import Kind

JSON = "application/json"
_BEYOND_ASCII = re.compile(r"[\x7f-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `accept` and `content_type` are media types, `timeout` is another than the client's."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    accept: str = JSON
    content_type: str = JSON
    body: object = None
    timeout: aiohttp.ClientTimeout | None = None

    def __str__(self) -> str:
        """Method and path, as errors name it."""
        return f"{self.method} {self.path}"


def as_yaml(document: object) -> str:
    """JSON that is YAML as well. Unlike JSON, YAML has neither surrogate pairs nor bare control characters."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return _BEYOND_ASCII.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


def path_of(kind: Kind, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The path of an object, or of all objects of a kind, in one namespace or in all."""
    parts = ["/apis" if kind.group else "/api", kind.api_version]
    if kind.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (kind.plural, quote(name, safe=""), subresource) if part]
    return "/".join(parts)


def decoded(call: Call, body: bytes) -> dict[str, Any]:
    """An answer of 200 that is no JSON object comes from something between us and the API server."""
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError) as error:
        raise Transient(f"{call}: the answer is no JSON object") from error
