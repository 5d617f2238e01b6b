"""The config in a report: all that sizing reads, in any case within a termination message."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.inspection import inspect_folder
from vllm_operator.fetch.reduction import keys, reduced
from vllm_operator.fetch.selection import Patterns
from vllm_operator.report import LIMIT, Inspected, Reason, ReportError, parse_report, render_report
from vllm_operator.sizing import catalogue
from vllm_operator.sizing.facts import facts_from_config
from vllm_operator.sizing.source import facts_at

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "tests" / "sizing" / "configs").iterdir())
READERS = {"find", "optional", "integer", "positive", "number", "flag", "words", "word", "section"}
MODULES = ("blueprint", "facts", "mixers", "quantization", "reader", "rope", "vision", "windows")


def roundtrip(config: dict[str, Any]) -> dict[str, Any]:
    text = render_report(Inspected("", reduced(config), 1))
    assert len(text.encode()) <= LIMIT
    report = parse_report(text)
    assert isinstance(report, Inspected)
    return dict(report.config)


@pytest.mark.parametrize("folder", CONFIGS, ids=lambda path: path.name)
def test_the_facts_of_every_known_config_survive(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    seen = inspect_folder(tmp_path, Patterns())
    text = render_report(seen)
    assert len(text.encode()) <= LIMIT
    assert parse_report(text) == seen
    assert facts_from_config(seen.config, "x") == replace(facts_at(folder), name="x")


@pytest.mark.parametrize("name", catalogue.names())
def test_the_facts_of_the_catalogue_survive(name: str) -> None:
    row = catalogue.row(name)
    assert row
    assert facts_from_config(roundtrip(row["config"]), name) == facts_from_config(row["config"], name)


def _asked() -> set[str]:
    """Every word that the code of sizing hands to a reader of configs."""
    trees = (ast.parse((ROOT / f"operator/vllm_operator/sizing/{name}.py").read_text("utf-8")) for name in MODULES)
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    readers = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in READERS | {"get"})
    words = (word.value for call in readers for word in call.args if isinstance(word, ast.Constant))
    return {word for word in words if isinstance(word, str)}


def test_no_key_that_sizing_reads_is_left_out() -> None:
    asked = _asked()
    assert len(asked) > 100
    assert asked - keys() <= {"", "auto", "bf16", "default", "int", "layers.", "fp8", "full_attention"}


def test_a_report_holds_nothing_else() -> None:
    config = {"hidden_size": 8, "secret": "x", "auto_map": {}, "text_config": {"vocab_size": 2, "secret": "x"}}
    assert roundtrip(config) == {"hidden_size": 8, "text_config": {"vocab_size": 2}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**80, "\ud800", {"a": object}, [[[[]]]] * 3])
def test_odd_values_make_no_odd_report(value: object) -> None:
    roundtrip({"hidden_size": value, "vocab_size": [value], "text_config": {"type": value}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(keys())) | st.text(), inner),
    max_leaves=60,
)


@given(st.dictionaries(st.sampled_from(sorted(keys())), JSON))
def test_any_config_is_reported_or_said_to_be_too_large(config: dict[str, Any]) -> None:
    try:
        text = render_report(Inspected("", reduced(config), 1))
    except ReportError as error:
        assert "room for 4096" in str(error)  # noqa: PT017 - either outcome is right
        return
    assert len(text.encode()) <= LIMIT
    assert parse_report(text) == Inspected("", reduced(config), 1)


def test_a_deep_config_is_cut(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"hidden_size": 1}
    for _ in range(200):
        deep = {"text_config": deep, "hidden_size": 1}
    assert roundtrip(deep)["hidden_size"] == 1
    (tmp_path / "config.json").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(FetchError, match="nested too deeply") as caught:
        inspect_folder(tmp_path, Patterns())
    assert caught.value.reason is Reason.CONFIG_UNREADABLE
