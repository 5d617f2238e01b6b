"""python -m demo [--down]: show the operator at work on this machine, or stop what an earlier run started."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from demo import chat, report, stage
from demo.stage import Stage
from localcluster.errors import LocalClusterError

_FAILED, _INTERRUPTED = 1, 130
_REPEAT_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0, 1 when a step failed (one message says which), 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="stop the cluster and the operator, remove their files")
    down: bool = parser.parse_args(arguments).down
    try:
        return _down() if down else _up()
    except LocalClusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("demo: interrupted; `make demo-down` removes what was started", file=sys.stderr)
        return _INTERRUPTED


def _down() -> int:
    existed = stage.close_stage()
    print("demo: stopped and removed" if existed else "demo: nothing was running")
    return 0


def _up() -> int:
    started = time.monotonic()
    _say("programs of the local cluster, and the cluster itself (the first time, some minutes of building)")
    here = stage.open_stage()
    _say(f"cluster ready after {time.monotonic() - started:.0f} s; installing CRD and RBAC, starting the operator")
    here.furnish()
    here.install()
    here.offer_programs()
    _say("applying the samples, and one that answers")
    here.apply()
    found = here.settle(_Progress())
    _print(here, found)
    report.heading("A chat answer")
    if here.left_out:
        report.nobody_answers(here.left_out)
    else:
        _say(f"samples settled after {time.monotonic() - started:.0f} s; waiting for vLLM to load its model")
        chat.show(here.answering(_Waiting()))
    report.heading("Try next")
    report.next_steps(here)
    _say(f"done after {time.monotonic() - started:.0f} s")
    return 0


class _Progress:
    """Says how many resources have settled, once per number."""

    def __init__(self) -> None:
        self._said = -1

    def __call__(self, done: int, total: int) -> None:
        if done != self._said:
            self._said = done
            _say(f"{done} of {total} resources settled")


class _Waiting:
    """Says what the answer waits for: when that changes, and every ten seconds."""

    def __init__(self) -> None:
        self._said, self._when = "", time.monotonic()

    def __call__(self, message: str) -> None:
        now = time.monotonic()
        if message and (message != self._said or now >= self._when + _REPEAT_SECONDS):
            self._said, self._when = message, now
            _say(f"{stage.CHAT}: {message}")


def _print(here: Stage, found: list[stage.Manifest]) -> None:
    report.heading("Resources")
    report.resources(found)
    report.heading("What each has become")
    report.children(here, found)
    report.heading("Why these GPUs")
    report.explanations(found)


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
