"""`run`: the operator itself."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
from typing import Any

from vllm_operator import app
from vllm_operator.config import PREFIX, Effective, add_flags, effective, unknown_variables

log = logging.getLogger(__name__)

_DEEPEST_JSON = 12_000  # and some room for who calls; an 8 MiB stack holds it


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run the operator",
        description="Watch VLLMDeployments and bring the cluster to what they say, until SIGTERM or SIGINT.",
        epilog=f"Every flag is also an environment variable, {PREFIX}WORKERS=4, and a line of the file that --config "
        "names, `workers: 4`. Flags go before variables, and those before the file.",
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run until a signal; the exit code."""
    found = effective(os.environ, vars(args))
    app.configure_logging(found.config.log_level, found.config.log_format)
    _tell(found)
    _spare_the_collector()
    # Whatever an API server stores can be read: it takes 10,000 levels of JSON (Go's encoding/json), and somebody's
    # object with a thousand would end the watch of all, at every start anew. `api.parse` refuses it.
    sys.setrecursionlimit(_DEEPEST_JSON)
    return asyncio.run(app.run(found.config))


def _spare_the_collector() -> None:
    """Look for garbage seldom, and never in what was loaded: a quarter of the CPU that reading a full cluster takes."""
    gc.freeze()
    gc.set_threshold(2_000, 10, 10)


def _tell(found: Effective) -> None:
    """The configuration in force as one line, and what was meant to be part of it and is not."""
    settings = found.settings()
    said = ", ".join(f"{name}={one['value']} ({one['source']})" for name, one in settings.items())
    log.info("configuration: %s", said, extra={"configuration": settings})
    for sentence in unknown_variables(os.environ):
        log.warning("%s", sentence)
