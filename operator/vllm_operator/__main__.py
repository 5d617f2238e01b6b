"""The command line: `vllm-operator`, and `kubectl vllm` by the name of a kubectl plugin.

Only the module of the wanted command is imported: a question about sizes must not wait for a client library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vllm_operator.errors import InvalidSpec, OperatorError, UsageError

COMMANDS = {
    "run": "run the operator",
    "size": "say which GPUs a model needs, and why",
    "validate": "check VLLMDeployments in files, without a cluster",
    "render": "print the children of a VLLMDeployment as YAML, without a cluster",
    "diff": "show what applying a VLLMDeployment would change in the cluster",
    "fetch": "bring a model into a cache that vLLM reads offline",
    "crd": "write or check the CustomResourceDefinition",
}

FAILED, MISUSED, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141  # the last two as a shell reports SIGINT and SIGPIPE


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without a screen of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`.")


def _program() -> str:
    name = Path(sys.argv[0]).name
    return {"kubectl-vllm": "kubectl vllm", "__main__.py": "python -m vllm_operator"}.get(name, name)


class _Version(argparse.Action):
    """Prints the version; looking it up takes a tenth of a second, so nobody else pays for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            found = version("vllm-operator")
        except PackageNotFoundError:  # run from a checkout
            found = "unknown (not installed)"
        print(f"{parser.prog} {found}")
        parser.exit()


def _parser(program: str, wanted: str | None) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, description="Turn a VLLMDeployment into a sized, production vLLM service.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    for name, summary in COMMANDS.items():
        if name == wanted:
            importlib.import_module(f"vllm_operator.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def _run(program: str, argv: Sequence[str]) -> int:
    wanted = next((word for word in argv if not word.startswith("-")), None)
    args = _parser(program, wanted).parse_args(argv)
    code = int(importlib.import_module(f"vllm_operator.cli.{args.command}").run(args))
    sys.stdout.flush()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 2 for bad input, 1 when the cluster or the network let us down."""
    program = _program()
    try:
        return _run(program, sys.argv[1:] if argv is None else argv)
    except (UsageError, InvalidSpec) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return MISUSED
    except OperatorError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered would fail again when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
