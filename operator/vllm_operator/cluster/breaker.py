"""Spares an API server that is away: however many resources wait for it, few requests find out whether it is back."""

from __future__ import annotations

import asyncio

from vllm_operator.errors import Transient

# Requests in a row without an answer that is one: a server that fails now and then is not away.
_FAILURES = 5
# Between two requests while it is away. With the Lease, every 2 s, that makes less than one a second, and resources
# that wait for 10 s at most (`app.workers`) are done within a quarter of a minute after it is back.
_PROBE_SECONDS = 4.0


class Breaker:
    """A circuit breaker: closed, it counts failures; open, it lets one request through every few seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._probed = 0.0  # on the loop's clock

    def admit(self, call: str) -> None:
        """Raise Transient, at once, for a request that need not be sent: the server is away."""
        if not self.is_open:
            return
        now = asyncio.get_running_loop().time()
        if now - self._probed < _PROBE_SECONDS:
            raise Transient(f"{call}: not sent, because the API server has been failing")
        self._probed = now

    def note(self, *, failed: bool) -> None:
        """Take note of how a request ended: it failed when no answer came, or the server said that it has none."""
        self._failures = self._failures + 1 if failed else 0
        if self._failures == _FAILURES:
            self._probed = asyncio.get_running_loop().time()

    @property
    def is_open(self) -> bool:
        """Whether the server is away."""
        return self._failures >= _FAILURES
