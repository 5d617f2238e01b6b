"""The resources themselves as last seen, so that a pass over one that did not change asks for nothing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vllm_operator.naming import Key, version_of


@dataclass(frozen=True, slots=True)
class _Seen:
    version: int
    packed: bytes  # the body as compressed JSON; nothing when it is in doubt


class Resources:
    """Fed by the watch and by the answers to our own writes; of two states the newer one counts."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def __iter__(self) -> Iterator[Key]:
        """The resources that are known; a copy, so that they may change meanwhile."""
        return iter(tuple(self._seen))

    def is_news(self, key: Key, version: int) -> bool:
        """Whether a state of that resource version is newer than what is known."""
        seen = self._seen.get(key)
        return seen is None or version > seen.version

    def see(self, key: Key, body: Mapping[str, Any]) -> None:
        """Take note of a state, unless a newer one is known."""
        version = version_of(body["metadata"])
        if key not in self._seen or version >= self._seen[key].version:
            self._seen[key] = _Seen(version, _pack(body))

    def body(self, key: Key) -> Any | None:  # noqa: ANN401 - any JSON
        """What is known, without its managed fields; None when it has to be asked for."""
        seen = self._seen.get(key)
        return json.loads(zlib.decompress(seen.packed)) if seen and seen.packed else None

    def doubt(self, key: Key) -> None:
        """Have the next pass ask for it."""
        if seen := self._seen.get(key):
            self._seen[key] = replace(seen, packed=b"")

    def forget(self, key: Key) -> None:
        """It is gone."""
        self._seen.pop(key, None)


def _pack(body: Mapping[str, Any]) -> bytes:
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    # The fastest level: a fifth of the size, in 40 us.
    return zlib.compress(json.dumps({**body, "metadata": metadata}, separators=(",", ":")).encode(), 1)
