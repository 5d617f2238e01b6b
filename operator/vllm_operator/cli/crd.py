"""`crd`: the CustomResourceDefinition, generated from the models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vllm_operator.api import PLURAL
from vllm_operator.api.crd import crd_yaml
from vllm_operator.errors import UsageError

STALE = 1
_FILE = f"{PLURAL}.yaml"
_FOLDERS = ("crds", "charts/vllm-operator/crds")


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "crd",
        help="write or check the CustomResourceDefinition",
        description="In a checkout, write the CustomResourceDefinition to its files; elsewhere, print it.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file is stale")


def _checkout() -> Path | None:
    """Root of the checkout that this module runs from; None when it is installed."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "operator").is_dir() else None


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _check(root: Path, paths: list[Path], text: str) -> int:
    stale = [path.relative_to(root) for path in paths if not _is_current(path, text)]
    for path in stale:
        print(f"{path} is not what the models say: run `make crd` and commit it.")
    return STALE if stale else 0


def run(args: argparse.Namespace) -> int:
    """Write, check or print."""
    text, root = crd_yaml(), _checkout()
    if root is None:
        if args.check:
            raise UsageError("--check compares the files of a checkout, and this is an installed package.")
        print(text, end="")
        return 0
    paths = [root / folder / _FILE for folder in _FOLDERS]
    if args.check:
        return _check(root, paths, text)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(root))
    return 0
