"""`run`: the operator itself."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
from typing import Any

from vllm_operator import app
from vllm_operator.config import PREFIX, add_flags, load

log = logging.getLogger(__name__)


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run the operator",
        description="Watch VLLMDeployments and bring the cluster to what they say, until SIGTERM or SIGINT.",
        epilog=f"Every flag is also an environment variable: {PREFIX}WORKERS=4 is --workers 4. Flags go first.",
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run until a signal; the exit code."""
    config = load(os.environ, vars(args))
    app.configure_logging(config.log_level, config.log_format)
    effective = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    log.info("configuration: %s", ", ".join(f"{name}={value}" for name, value in effective.items()))
    return asyncio.run(app.run(config))
