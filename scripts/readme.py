"""README.md with the output of the commands that it shows: ```console blocks of `$ vllm-operator ...`."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

from vllm_operator.__main__ import main

_README = Path(__file__).resolve().parent.parent / "README.md"
_BLOCK = re.compile(r"```console\n\$ vllm-operator (?P<words>[^\n]+)\n.*?```\n", re.DOTALL)


def _answer(block: re.Match[str]) -> str:
    """The block with what the command prints now."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(shlex.split(block["words"]))
    return f"```console\n$ vllm-operator {block['words']}\n{printed.getvalue().rstrip()}\n```\n"


def readme() -> str:
    """The text as it should be."""
    return _BLOCK.sub(_answer, _README.read_text())
