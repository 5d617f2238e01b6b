"""extraArgs: what the operator owns is refused in every spelling that vLLM's parser takes, the rest passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.engine.flags import check_extra_args, known_flags


def sentences(*arguments: str) -> list[str]:
    return [str(problem) for problem in check_extra_args(arguments)]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seed", "0"],
        ["--seed", "-1"],
        ["--generation-config", "vllm", "--max-num-queued-reqs=256"],
        ["--quantization-config", '{"a": 1}'],  # begins as --quantization, which is owned, and is another flag
        ["--reasoning-parser-plugin", "/plugins/a.py"],
        ["--kv-cache-dtype-skip-layers", "sliding_window"],
        ["--hf-overrides", '{"rope_scaling": {"factor": 2.0}}'],
        ["--chat-template={{ bos }} {% if x %}--port{% endif %}"],  # what looks like a flag in there is a value
        ["--override-generation-config.temperature", "0.2"],
        ["-O3", "-cc.cudagraph_mode=NONE"],
        ["--max_log_len=10"],
        ["--no-async-scheduling"],
        ["--kv-cache-memory-bytes", "64m"],
        ["--allowed-origins", "--", "-"],
    ],
)
def test_passes(arguments: list[str]) -> None:
    assert sentences(*arguments) == []


@pytest.mark.parametrize("flag", known_flags().owned)
def test_owned_flags_are_refused_in_every_spelling(flag: str) -> None:
    field = known_flags().owned[flag]
    way_out = f"set {field} instead" if field else "remove it"
    negated = f"--no-{flag.removeprefix('--')}"
    for spelled in (flag, f"{flag}=1", f"{flag}.a.b", f"{flag}.list+", "--" + flag[2:].replace("-", "_"), negated):
        (sentence,) = sentences("--seed", "0", spelled, "1")
        assert sentence.startswith("spec.engine.extraArgs: --")
        assert way_out in sentence
    shorter = flag[:-1]
    (sentence,) = sentences(shorter)
    assert "is set by the operator" in sentence or "was removed" in sentence


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--tensor-parallel-size",
            "--tensor-parallel-size is set by the operator: set spec.parallelism.tensor instead",
        ),
        ("--tensor_parallel_size=2", "--tensor-parallel-size is set by the operator"),
        ("--tensor-par", "--tensor-par abbreviates --tensor-parallel-size, which is set by the operator"),
        ("--tensor_par=2", "--tensor-par abbreviates --tensor-parallel-size"),
        ("-tp", "-tp (short for --tensor-parallel-size) is set by the operator"),
        ("-tp=2", "-tp (short for --tensor-parallel-size) is set by the operator"),
        ("-t", "-t abbreviates -tp"),
        ("-qfp8", "-q (short for --quantization) is set by the operator: set spec.model.quantization instead"),
        ("-n2", "-n (short for --nnodes) is set by the operator"),
        ("-dpl", "-dpl (short for --data-parallel-size-local) is set by the operator: set spec.replicas instead"),
        ("-sc", "-sc (short for --speculative-config) is set by the operator"),
        ("--no-enforce-eager", "--no-enforce-eager is set by the operator: set spec.engine.enforceEager instead"),
        ("--no-enf", "--no-enf abbreviates --enforce-eager"),
        ("--spec-tokens", "--spec-tokens is set by the operator: set spec.engine.speculative.tokens instead"),
        ("--disable-log-stats", "--disable-log-stats is set by the operator: remove it"),
        ("--swap-space=4", "--swap-space was removed from vLLM: use --kv-offloading-size"),
        ("--guided_decoding_backend", "--guided-decoding-backend was removed from vLLM"),
        ("--seed 0", "'--seed 0' is one word to vLLM: make the flag and its value two entries"),
    ],
)
def test_refused(argument: str, expected: str) -> None:
    (sentence,) = sentences(argument)
    assert expected in sentence


def test_a_word_that_no_flag_precedes_is_refused() -> None:
    """--lora-modules, --served-model-name and others take any number of words."""
    (sentence,) = sentences("sql2=acme/sql", "--seed", "0")
    assert "must begin with a flag: 'sql2=acme/sql'" in sentence


def test_every_problem_is_named() -> None:
    assert len(sentences("word", "--port", "1", "-tp2", "--model", "x", "--task")) == 4


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4))
def test_any_words_can_be_checked(arguments: list[str]) -> None:
    """Never raises, and always answers alike."""
    assert sentences(*arguments) == sentences(*arguments)


def test_the_table_is_consistent() -> None:
    flags = known_flags()
    assert set(flags.short.values()) <= set(flags.owned)
    assert not set(flags.removed) & set(flags.owned)
    assert all(name.startswith("--") for name in (*flags.owned, *flags.removed))
