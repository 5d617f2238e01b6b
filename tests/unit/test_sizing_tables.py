"""Rows that a platform team adds, and what a running vLLM reports."""

from __future__ import annotations

import pytest

from vllm_operator.sizing.measured import Measured, drift, parse
from vllm_operator.sizing.tables import line_of, load_tables
from vllm_operator.sizing.types import Band

GOOD = """\
gpus:
  Acme-X1-64GB:
    name: X1
    memoryGiB: 63.5
    gpusPerNode: [4]
    weight: 1.5
  NVIDIA-L4:
    weight: 0.1
models:
  acme/private-8b:
    source: our registry
    config: {architectures: [LlamaForCausalLM], hidden_size: 4096, num_hidden_layers: 32, num_attention_heads: 32,
      num_key_value_heads: 8, intermediate_size: 14336, vocab_size: 128256, max_position_embeddings: 8192}
"""


def test_rows_are_added_and_shipped_ones_changed() -> None:
    tables = load_tables(GOOD)
    assert not tables.bad
    added = tables.gpu("x1")
    assert added is not None
    assert (added.memory_gib, added.gpus_per_node) == (63.5, (4,))
    changed = tables.gpu("L4")
    assert changed is not None
    assert (changed.weight, changed.memory_gib) == (0.1, 22.03)
    assert tables.models["acme/private-8b"].hidden == 4096


@pytest.mark.parametrize(
    ("text", "line", "field", "said"),
    [
        ("gpus:\n  A:\n    memoryGiB: big\n", 3, "gpus.A.memoryGiB", "wrong type"),
        ("gpus:\n  A:\n    memoryGiB: 80\n    weight: -1\n", 4, "gpus.A.weight", "above 0"),
        ("gpus:\n  A:\n    name: A\n", 2, "gpus.A.memoryGiB", "is missing"),
        ("gpus:\n  A:\n    memoryGiB: 80\n    memory: 80\n", 4, "gpus.A.memory", "not a field"),
        ("gpus:\n  A: 3\n", 2, "gpus.A", "a mapping was expected"),
        ("gpus: [1]\n", 1, "gpus", "a mapping of rows"),
        ("cards: {}\n", 1, "cards", "gpus and models are known"),
        ("models:\n  m/x:\n    config: {hidden_size: 3}\n", 3, "models.m/x.config", "num_hidden_layers is missing"),
        ("models:\n  m/x:\n    files: {safetensorsBytes: no}\n    config: {}\n", 3, "models.m/x.files", "whole number"),
        ("models:\n  m/x:\n    weights: 3\n", 3, "models.m/x.weights", "not a field"),
        ("gpus: {\n", 2, "", "no YAML"),
        ("- a\n", 1, "", "a mapping with gpus and models"),
    ],
)
def test_a_bad_row_names_line_and_field(text: str, line: int, field: str, said: str) -> None:
    bad = load_tables(text).bad
    assert len(bad) == 1
    assert (bad[0].line, bad[0].field) == (line, field)
    assert said in bad[0].sentence


def test_a_bad_row_does_not_spoil_the_others() -> None:
    tables = load_tables(GOOD + "  broken/one:\n    config: 7\n")
    assert [row.field for row in tables.bad] == ["models.broken/one.config"]
    assert set(tables.gpus) == {"Acme-X1-64GB", "NVIDIA-L4"}


def test_an_empty_document_has_no_rows() -> None:
    assert load_tables("") == load_tables("# nothing\n")
    assert line_of("a: 1\n", "b") == 1


PAGE = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",gpu_memory_utilization="0.9",
"""


def test_the_metric_is_parsed() -> None:
    text = (
        'other{a="b"} 1\nvllm:cache_config_info{block_size="16",num_gpu_blocks="28934",kv_cache_size_tokens="462944",'
        'kv_cache_max_concurrency="56.51",note="a \\"quoted\\" word"} 1.0\n'
    )
    assert parse(text) == Measured(28934, 16, 462944, 56.51)


def test_versions_without_tokens_have_blocks() -> None:
    assert parse('vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0') == Measured(10, 16, 160)


@pytest.mark.parametrize("text", ["", PAGE, 'vllm:cache_config_info{block_size="None",num_gpu_blocks="3"} 1.0'])
def test_what_says_nothing_is_nothing(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("tokens", "percent", "outside"),
    [(100_000, 0.0, False), (89_000, -11.0, True), (95_000, -5.0, False), (120_000, 20.0, True)],
)
def test_drift_is_measured_against_the_band(tokens: int, percent: float, outside: bool) -> None:  # noqa: FBT001
    found = drift(Measured(1, 16, tokens), Band(90_000, 110_000))
    assert (found.percent, found.outside) == (percent, outside)
    assert ("fewer" in found.sentence) == (percent <= 0)
