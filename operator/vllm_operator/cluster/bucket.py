"""A limit on how fast is written."""

from __future__ import annotations

import asyncio


class TokenBucket:
    """Lets `burst` calls through at once and `rate` per second in the long run."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled = 0.0

    async def take(self) -> None:
        """Wait for a token; waiters are served in the order in which they came."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled) * self._rate) - 1
        self._filled = now
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)
