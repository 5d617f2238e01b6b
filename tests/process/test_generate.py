"""generate.py writes what is derived from the models, and notices when that is stale."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from vllm_operator.api.reference import markdown

ROOT = Path(__file__).parents[2]
TEXT = markdown()


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("generate")


def test_check_passes_on_the_committed_files(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_says_what_is_stale_and_writes_nothing(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "docs" / "reference.md"
    stale.parent.mkdir()
    stale.write_text(TEXT.replace("required", "optional", 1))
    assert generate.main(["--check"], tmp_path) == 1
    error = capsys.readouterr().err
    assert "docs/reference.md" in error
    assert "make crd" in error
    assert stale.read_text() != TEXT


def test_generate_writes_what_check_then_accepts(generate: ModuleType, tmp_path: Path) -> None:
    assert generate.main([], tmp_path) == 0
    assert (tmp_path / "docs" / "reference.md").read_text() == TEXT
    assert generate.main(["--check"], tmp_path) == 0
