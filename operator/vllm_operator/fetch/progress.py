"""Progress on a terminal or in a log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from vllm_operator.report import progress_line

LOG_SECONDS = 5.0
TERMINAL_SECONDS = 0.5


@contextmanager
def shown(stream: TextIO, arrived: Callable[[], int], total: int) -> Iterator[None]:
    """Say how many bytes are there while the body runs: one line that changes on a terminal, else a line now and then.

    A log has a line at the start and one at the end, and at most one in LOG_SECONDS between them.
    """
    ended = threading.Event()
    terminal = stream.isatty()
    start, end = ("\r\x1b[K", "") if terminal else ("", "\n")

    def say() -> None:
        with suppress(BrokenPipeError):  # nobody reads it; whoever prints the result hears of it
            print(f"{start}{progress_line(arrived(), total)}", end=end, file=stream, flush=True)

    def repeat() -> None:
        while not ended.wait(TERMINAL_SECONDS if terminal else LOG_SECONDS):
            say()

    say()
    ticker = threading.Thread(target=repeat, name="progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()
        say()
        if terminal:
            print(file=stream, flush=True)
