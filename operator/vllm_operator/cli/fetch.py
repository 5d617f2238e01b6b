"""`fetch SOURCE`: bring a model into a cache that vLLM reads offline, or say what it is."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from vllm_operator.errors import UsageError
from vllm_operator.report import TRANSIENT, Failed, Fetched, Inspected, Reason, Report, ReportError, render_report

PASSES, STAYS = 1, 3
TERMINATION_LOG = Path("/dev/termination-log")

_EPILOG = """\
environment: HF_HOME (where the cache lies), HF_TOKEN (private and gated repositories), HF_ENDPOINT (another hub),
HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE.
exit codes: 0 done, 1 worth another try (network, overload), 2 called wrongly, 3 stays so until somebody changes
something (gated, wrong token, not found, no space, no weights).
"""


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fetch",
        help="bring a model into a cache that vLLM reads offline",
        description="Bring what vLLM needs of a model into a cache, in huggingface_hub's layout: once, checked, and "
        "resumed after an interruption. vLLM finds it there with HF_HUB_OFFLINE=1 and the same HF_HOME.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="hf://ORGANIZATION/NAME; with --inspect also a folder")
    parser.add_argument("--revision", default="main", metavar="REV", help="branch, tag or commit (default: main)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="in place of HF_HOME")
    parser.add_argument("--include", action="append", default=[], metavar="P", help="only files like that; repeatable")
    parser.add_argument("--exclude", action="append", default=[], metavar="P", help="no files like that; repeatable")
    parser.add_argument("--inspect", action="store_true", help="download no weights: report config and size")
    parser.add_argument("--report", type=Path, metavar="FILE", help=f"write a JSON report (default: {TERMINATION_LOG})")


def run(args: argparse.Namespace) -> int:
    """Fetch or inspect, report, and return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    where = _report_file(args.report)
    report = _report(args)
    try:
        text = render_report(report)
    except ReportError as error:
        message = f"config.json of {args.source} is too long to be reported ({error}): use spec.model.facts."
        report = Failed(Reason.CONFIG_TOO_LARGE, message)
        text = render_report(report)
    if where:
        where.write_text(text, encoding="utf-8")
    return _say(report, args)


def _leave(number: int, _frame: object) -> None:
    """End at once: all that is on disk is as good as after a kill, and threads that wait for a hub would not end."""
    os._exit(128 + number)


def _report_file(wanted: Path | None) -> Path | None:
    if wanted is None:
        return TERMINATION_LOG if TERMINATION_LOG.is_file() and os.access(TERMINATION_LOG, os.W_OK) else None
    try:
        wanted.open("a").close()
    except OSError as error:
        raise UsageError(f"--report {wanted} cannot be written: {error.strerror}.") from error
    return wanted


def _report(args: argparse.Namespace) -> Report:
    """Do what is wanted. The libraries that it takes are imported here: other commands need none of them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # a download is nobody else's business
    try:
        from vllm_operator.fetch.failures import FetchError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(
            f"fetch needs huggingface_hub, and {error.name} is missing: pip install huggingface_hub."
        ) from error
    try:
        return _act(args)
    except FetchError as error:
        return Failed(error.reason, str(error))


def _act(args: argparse.Namespace) -> Report:
    from vllm_operator.fetch.hub import Hub, cache_folder  # noqa: PLC0415
    from vllm_operator.fetch.inspection import inspect, inspect_folder  # noqa: PLC0415
    from vllm_operator.fetch.model import fetch  # noqa: PLC0415
    from vllm_operator.fetch.progress import shown  # noqa: PLC0415
    from vllm_operator.fetch.selection import Patterns  # noqa: PLC0415

    patterns = Patterns(args.include, args.exclude)
    if args.source.startswith(("/", ".")):
        if not args.inspect:
            raise UsageError(f"{args.source} is a folder, which needs no fetching: --inspect says what it holds.")
        return inspect_folder(Path(args.source), patterns)
    hub = Hub(args.source.removeprefix("hf://"), args.revision)
    if args.inspect:
        return inspect(hub, patterns)
    return fetch(hub, cache_folder(args.cache), patterns, partial(shown, sys.stdout))


def _say(report: Report, args: argparse.Namespace) -> int:
    match report:
        case Failed():
            print(f"{report.reason}: {report.message}", file=sys.stderr)
            return PASSES if report.reason in TRANSIENT else STAYS
        case Fetched():
            print(f"{args.source} at {report.commit} is in the cache: {report.bytes / 2**30:.1f} GiB.")
        case Inspected():
            print(render_report(report))
    return 0
