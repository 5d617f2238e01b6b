"""What vLLM's own parser says to argument lists: run by a Python that has vLLM, in one process for all of them.

Reads {"parser": [...], "engine": [...]} from standard input, both lists of argument lists (those of `vllm serve`, the
model first), and writes the same with null for what is accepted, otherwise the complaint. Under "engine", vLLM's
configuration is made of the parser's answer too. Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

_DUMP = Path(__file__).resolve().parents[2] / "scripts" / "dump_flags.py"


def complaint(parser: Any, arguments: list[str], *, engine: bool) -> str | None:  # noqa: ANN401 - vLLM's parser
    """What is said to one argument list, if it is not accepted."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = parser.parse_args(arguments)
            if engine:
                importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs.from_cli_args(parsed)
    except SystemExit:
        return next((line for line in said.getvalue().splitlines() if "error:" in line), "exit")
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises is its answer
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Everything on standard output but the answer goes to standard error: vLLM logs while it is imported."""
    asked: dict[str, list[list[str]]] = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        parser = runpy.run_path(str(_DUMP))["serve_parser"]()
        answers = {
            kind: [complaint(parser, arguments, engine=kind == "engine") for arguments in lists]
            for kind, lists in asked.items()
        }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
