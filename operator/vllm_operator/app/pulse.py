"""How late the event loop is: everything waits for everything else in it, so its delay is everybody's."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
MINUTE = 60.0
# A loop that is this late can renew no lease in time and answer no probe.
LATE_SECONDS = 5.0


class Pulse:
    """Beats twice a second and remembers for a minute how late each beat came. `told` hears of each, in seconds."""

    def __init__(self, told: Callable[[float], None]) -> None:
        self._told = told
        self._late: deque[tuple[float, float]] = deque(maxlen=int(MINUTE / BEAT_SECONDS))

    async def beat(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            now = loop.time()
            late = max(0.0, now - due)
            self._late.append((now, late))
            self._told(late)
            if late > LATE_SECONDS:
                log.warning("the event loop stood still for %.1f s; SIGUSR2 has it say where", late)

    def worst(self, within: float = MINUTE) -> float:
        """The longest delay of a beat in the last `within` seconds."""
        since = asyncio.get_running_loop().time() - within
        return max((late for at, late in self._late if at >= since), default=0.0)
