"""Write what vLLM's own parser knows: every flag of `vllm serve` with its type, and the names of parsers.

Run it with a Python that has vLLM (a GPU is not needed; torch may be a version older or newer than vLLM asks for):

    VENV/bin/python scripts/dump_flags.py            writes engine/data/flags-<minor>.json
    VENV/bin/python scripts/dump_flags.py --check    compares the file with the parser; exit code 1 if they differ

What the parser would accept is what counts, so spellings are taken from its table, hidden ones included.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "operator" / "vllm_operator" / "engine" / "data"
# Where vLLM keeps the parser of `vllm serve`: since 0.33, and before.
_HOMES = ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args")
# What a flag's `type` function reads, by the function's name (vllm/utils/argparse_utils.py, vllm/engine/arg_utils.py).
_TYPES = {
    "int": "int",
    "float": "float",
    "str": "text",
    "loads": "json",
    "human_readable_int": "size",
    "human_readable_int_or_auto": "size-or-auto",
    "union_dict_and_str": "text-or-json",
    "parse_dataclass": "object",
    "parse_reasoning_parser": "text",
}
_SHOWN_DEFAULTS = (bool, int, float, str)
_DIFF_LINES = 40

Data = dict[str, Any]


def main() -> int:
    """Exit code 0, or 1 when `--check` finds a difference."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing, say what differs")
    options.add_argument("--data", type=Path, default=DATA, help="folder of the data files")
    asked = options.parse_args()
    data = dump()
    path: Path = asked.data / f"flags-{'.'.join(data['vllm'].split('.')[:2])}.json"
    if asked.check:
        return _compare(path, text(data))
    path.write_text(text(data))
    print(f"wrote {path}: {len(data['flags'])} flags of vLLM {data['vllm']}")
    return 0


def _compare(path: Path, wanted: str) -> int:
    found = path.read_text() if path.exists() else ""
    difference = difflib.unified_diff(
        found.splitlines(), wanted.splitlines(), path.name, "vLLM's parser", "", "", 0, ""
    )
    lines = list(difference)
    print("\n".join(lines[:_DIFF_LINES]) or f"{path.name} is what vLLM's parser knows")
    return 1 if lines else 0


def text(data: Data) -> str:
    """JSON with one flag a line, so that a change of version reads well as a difference."""
    flags = ",\n".join(f"    {json.dumps(name)}: {json.dumps(flag)}" for name, flag in sorted(data["flags"].items()))
    others = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in data.items() if key != "flags")
    return f'{{\n{others}  "flags": {{\n{flags}\n  }}\n}}\n'


def dump() -> Data:
    """Everything that is kept of the vLLM that this Python has."""
    vllm = importlib.import_module("vllm")
    parser = serve_parser()
    quantization = importlib.import_module("vllm.model_executor.layers.quantization")
    return {
        "vllm": re.split(r"[+]", vllm.__version__)[0],
        "by": "scripts/dump_flags.py",
        "toolParsers": _registered("vllm.tool_parsers", "ToolParserManager"),
        "reasoningParsers": _registered("vllm.reasoning", "ReasoningParserManager"),
        "quantizations": sorted(quantization.QUANTIZATION_METHODS),
        "flags": dict(_flags(parser)),
    }


def serve_parser() -> argparse.ArgumentParser:
    """The parser of `vllm serve`, on a machine without a GPU too."""
    _settle_platform()
    flexible = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    parser: argparse.ArgumentParser = _home().make_arg_parser(flexible(prog="vllm serve"))
    return parser


def _settle_platform() -> None:
    """Builds for GPUs find no device here and would refuse to make a parser: the flags do not depend on the device."""
    platforms: Any = importlib.import_module("vllm.platforms")
    if platforms.current_platform.is_unspecified():
        platforms._current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()


def _home() -> Any:  # noqa: ANN401 - a module
    for name in _HOMES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    sys.exit(f"this vLLM keeps its parser in none of {', '.join(_HOMES)}: add where it is to scripts/dump_flags.py")


def _registered(module: str, manager: str) -> list[str]:
    return sorted(getattr(importlib.import_module(module), manager).list_registered())


def _flags(parser: argparse.ArgumentParser) -> list[tuple[str, Data]]:
    spellings: dict[int, list[str]] = defaultdict(list)
    actions: dict[int, argparse.Action] = {}
    for spelling, action in parser._option_string_actions.items():  # hidden spellings are only there
        spellings[id(action)].append(spelling)
        actions[id(action)] = action
    return [_flag(actions[key], spelled) for key, spelled in spellings.items() if "--help" not in spelled]


def _flag(action: argparse.Action, spellings: list[str]) -> tuple[str, Data]:
    name, *others = sorted(spellings, key=lambda spelled: not spelled.startswith("--"))
    flag: Data = {"spellings": others} if others else {}
    if action.nargs == 0:
        return name, {"type": "switch", **flag, **_default(action)}
    kind, optional, keys = _kind(name, action.type)
    flag = {"type": kind, **flag}
    if optional and (action.choices is None or None in action.choices):
        flag["optional"] = True
    if action.nargs is not None:
        flag["values"] = action.nargs
    if type(action).__name__ == "_AppendAction":
        flag["repeats"] = True
    if action.choices is not None:
        flag["choices"] = [choice for choice in action.choices if choice not in (None, "None")]
    return name, {**flag, **({"keys": keys} if keys else {}), **_default(action)}


def _default(action: argparse.Action) -> Data:
    value = action.default.value if isinstance(action.default, Enum) else action.default
    return {"default": value} if isinstance(value, _SHOWN_DEFAULTS) and value != argparse.SUPPRESS else {}


def _kind(name: str, convert: Any) -> tuple[str, bool, list[str]]:  # noqa: ANN401 - argparse's type of an action
    """What a flag's values are, whether "None" and "" stand for unset, and the keys of an object."""
    optional = False
    while convert is not None and getattr(convert, "__name__", "") in ("_optional_type", "_parse_type"):
        optional |= convert.__name__ == "_optional_type"
        convert = inspect.getclosurevars(convert).nonlocals["return_type"]
    if convert is None:
        return "text", optional, []
    kind = _TYPES.get(convert.__name__) or _probed(name, convert)
    return kind, optional, _keys(convert) if kind == "object" else []


def _probed(name: str, convert: Callable[[str], Any]) -> str:
    """The kind behind a function without a name of its own."""
    if convert.__name__ != "<lambda>":
        sys.exit(f"{name} has the type {convert!r}, which scripts/dump_flags.py does not know: add it to _TYPES")
    return "name" if convert("A-b") == "a_b" else "text"


def _keys(convert: Callable[[str], Any]) -> list[str]:
    fields = dataclasses.fields(inspect.signature(convert).parameters["cls"].default)
    return sorted(field.name for field in fields if field.init and not field.name.startswith("_"))


if __name__ == "__main__":
    sys.exit(main())
