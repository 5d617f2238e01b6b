"""The hub's record of requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """One request that the hub answered. `sent` counts bytes of the body, `first` is the first byte asked for."""

    method: str
    path: str
    status: int
    first: int = 0
    sent: int = 0
    authorized: bool = False
