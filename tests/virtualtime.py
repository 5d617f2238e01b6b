"""An event loop whose clock jumps to the next timer, so that tests of long delays take no time and never race."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

P = ParamSpec("P")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Where the standard loop would wait for a timer, this one moves its clock. Not for tests that use sockets."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 1000.0
        select = self._selector.select  # type: ignore[attr-defined]  # the only seam that the standard loop has

        def jump(timeout: float | None) -> object:
            self._at += timeout or 0.0
            return select(0 if timeout else timeout)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._at


def virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def story() -> None:
            await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(story())

    return run
