"""Waiting for a condition with a deadline, never for a length of time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    predicate: Callable[[], T],
    timeout: float = 30.0,
    message: str = "the condition",
    interval: float = 0.05,
) -> T:
    """Call `predicate` until its value is true and return that value.

    Args:
        predicate: what to observe; an AssertionError it raises counts as "not yet" and is what a timeout reports.
        timeout: seconds until giving up.
        message: what is awaited, for the error.
        interval: seconds between two observations, growing to ten times that.

    Raises:
        TimeoutError: with the last observed value.
    """
    deadline = time.monotonic() + timeout
    pause = interval
    while True:
        observed: T | str
        try:
            value = predicate()
            if value:
                return value
            observed = value
        except AssertionError as error:
            observed = f"AssertionError: {error}"
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {timeout:g} s: {message}; last observed: {observed!r}")
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.3, interval * 10)
