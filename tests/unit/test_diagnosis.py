"""The table of failures: every row matches its own examples, real logs of vLLM, and costs little on hostile ones."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.api.crd import schema_of
from vllm_operator.api.spec import Spec
from vllm_operator.engine import diagnosis
from vllm_operator.engine.diagnosis import (
    FACTS,
    MAX_LINE,
    MAX_LINES,
    MAX_LOG,
    MAX_QUOTE,
    Evidence,
    Failure,
    Where,
    diagnose,
    failures,
    log_lines,
    quote,
    redact,
)

ROWS = failures()
DATA = Path(diagnosis.__file__).parent / "data" / "failures.yaml"
SPEC = schema_of(Spec)
LOGS = Path(__file__).parents[1] / "engine_logs"
FIELDS = {"reason", "where", "patterns", "stalled", "at_once", "what", "remedy", "quotes", "source", "examples"}


def row_id(row: Failure) -> str:
    return f"{ROWS.index(row)}-{row.reason or 'other'}-{row.where}"


def lines_of(row: Failure, example: str) -> tuple[str, ...]:
    return log_lines(example) if row.where == "log" else (example,)


def first_match(where: Where, lines: tuple[str, ...]) -> Failure | None:
    return next((row for row in ROWS if row.where == where and any(row.search(line) for line in lines)), None)


def said_of(where: Where, *lines: str, **facts: str) -> str:
    found = diagnose(Evidence({where: lines}, facts))
    assert found is not None
    return found.message


# --- the data


@pytest.mark.parametrize("row", yaml.safe_load(DATA.read_text()), ids=lambda row: f"{row['reason']}-{row['where']}")
def test_a_row_has_what_a_row_must_have(row: dict[str, Any]) -> None:
    assert set(row) <= FIELDS
    assert {"reason", "where", "patterns", "what", "remedy", "source", "examples"} <= set(row)
    assert row["where"] in get_args(Where)
    assert re.fullmatch(r"[A-Z][A-Za-z]+|", row["reason"])
    assert row["patterns"]
    assert row["examples"]
    assert row["source"]
    assert row.get("quotes", "log") == "log"
    for flag in ("stalled", "at_once"):
        assert row.get(flag, False) in (True, False)


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_every_example_is_matched_by_its_row_and_none_above(row: Failure) -> None:
    for example in row.examples:
        assert first_match(row.where, lines_of(row, example)) is row, example


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_sentences_name_nothing_that_is_not_there(row: Failure) -> None:
    """Every placeholder is a fact or a group of each of the row's patterns."""
    named = set(re.findall(r"\{(\w+)\}", f"{row.what} {row.remedy}")) - set(FACTS)
    for pattern in row.patterns:
        assert named <= {*pattern.groupindex, *(("successors",) if "flags" in pattern.groupindex else ())}


def _exists(schema: dict[str, Any], path: list[str]) -> bool:
    for part in path:
        schema = schema.get("items", schema)
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return True
        if part not in schema.get("properties", {}):
            return False
        schema = schema["properties"][part]
    return True


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_the_way_out_is_a_sentence_about_fields_that_exist(row: Failure) -> None:
    assert row.what.endswith(".")
    assert row.remedy.endswith(".")
    assert row.remedy[0].isupper()
    fields = re.findall(r"\bspec((?:\.\w+)+)", f"{row.what} {row.remedy}")
    assert [field for field in fields if not _exists(SPEC, field.strip(".").split("."))] == []


# --- real logs


REAL = {
    "architecture-of-transformers-unknown": "UnsupportedArchitecture",
    "architecture-unknown": "UnsupportedArchitecture",
    "batch-too-small": "BatchTooSmall",
    "chat-template-missing": "ChatTemplateMissing",
    "config-missing": "ModelNotFound",
    "flag-ambiguous": "InvalidArguments",
    "flag-removed": "InvalidArguments",
    "flag-value": "InvalidArguments",
    "hub-unreachable": "HubUnreachable",
    "kv-cache-too-small": "KVCacheTooSmall",
    "length-beyond-model": "LengthBeyondModel",
    "lora-missing": "LoRAAdapterNotFound",
    "memory-busy": "MemoryBusy",
    "model-not-cached": "ModelNotCached",
    "model-path-missing": "ModelNotFound",
    "port-in-use": "PortInUse",
    "quantization-of-unquantized": "QuantizationInvalid",
    "quantization-unknown": "UnsupportedQuantization",
    "reasoning-parser-unknown": "ParserUnknown",
    "remote-code": "RemoteCodeRequired",
    "service-link": "ServiceLinkConflict",
    "tensor-indivisible": "HeadsNotDivisible",
    "tokenizer-empty": "TokenizerInvalid",
    "tokenizer-missing": "TokenizerInvalid",
    "tokenizer-no-json": "TokenizerInvalid",
    "tool-parser-unknown": "ParserUnknown",
    "weights-corrupt": "WeightsCorrupt",
    "weights-garbage": "WeightsCorrupt",
    "weights-mismatch": "WeightsMismatch",
    "weights-missing": "WeightsMissing",
    "worker-killed": "EngineCrashed",
    "worker-segfault": "EngineCrashed",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in LOGS.glob("*.log")))
def test_real_logs_of_vllm_tell_why_it_did_not_start(name: str) -> None:
    found = diagnose(Evidence({"log": log_lines((LOGS / f"{name}.log").read_text()), "end": ("1 Error",)}, {}))
    assert found is not None
    assert (found.reason, found.where) == (REAL[name], "log")
    assert 'log: "' in found.message


def test_every_kind_of_failure_has_its_log() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(REAL)


def test_numbers_of_the_log_reach_the_sentence() -> None:
    line = (
        "ValueError: To serve at least one request with the model's max seq len (8192), (2.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated "
        "maximum model length is 4096. Try increasing"
    )
    said = said_of("log", line)
    assert said.startswith("The KV cache has no room for one request of 8192 tokens, but for one of 4096. Set ")
    assert "at most 4096" in said
    assert said.endswith('length is 4096. Try increasing")')
    assert '(log: "ValueError: To serve' in said


def test_removed_flags_name_what_became_of_them() -> None:
    said = said_of("log", "vllm serve: error: unrecognized arguments: --swap-space 4 --disable_log_requests")
    assert "argument --swap-space --disable_log_requests." in said
    assert "--swap-space was removed from vLLM: use " in said
    assert "--disable-log-requests was removed from vLLM: use " in said
    assert "was removed" not in said_of("log", "vllm serve: error: unrecognized arguments: --frobnicate 3")


def test_facts_of_the_pod_reach_the_sentence() -> None:
    said = said_of("end", "137 OOMKilled", container="vllm", memory_limit="24Gi")
    assert said == (
        "Container vllm needed more than its memory limit of 24Gi. Raise resources.limits.memory of the container in "
        "spec.podTemplate."
    )


def test_what_is_not_known_is_told_with_the_last_error() -> None:
    log = log_lines(
        "Traceback (most recent call last):\n"
        "KeyError: 'rope_type'\n"
        "(APIServer pid=1) ERROR 11-21 16:00:00 [core.py:1] RuntimeError: Engine core initialization failed. See root "
        "cause above.\n"
    )
    found = diagnose(Evidence({"log": log, "end": ("1 Error",)}, {"container": "vllm"}))
    assert found is not None
    assert found.reason == "StartupFailed"
    assert found.message.endswith("""(log: "KeyError: 'rope_type'")""")
    assert diagnose(Evidence({}, {})) is None


# --- what is news and what is not


def test_configurations_and_hints_are_not_taken_for_failures() -> None:
    log = (
        "(APIServer pid=1) INFO 11-21 16:00:00 [llm.py:1] Initializing a V1 LLM engine with config: "
        "trust_remote_code=True, PermissionError: \n"
        "(EngineCore pid=2) WARNING 11-21 16:00:00 [parallel.py:7] Address already in use. Retrying with a new port.\n"
        "WARNING 11-21 16:00:00 [a.py:1] CUDA out of memory\n"
        "INFO:     127.0.0.1:1234 - GET /health 503 EngineDeadError\n"
    )
    assert log_lines(log) == ()


def test_prefixes_colours_and_control_characters_are_cut_off() -> None:
    prefix = "\x1b[31m(EngineCore pid=42)\x1b[0m ERROR 11-21 16:00:00 [core.py:12] "
    log = f"{prefix}ValueError: a\x00b\u202ec\r\n  \n(Worker pid=1) raw"
    assert log_lines(log) == ("ValueError: a b c", "raw")


def test_the_end_of_a_long_log_counts() -> None:
    log = "\n".join(f"line {number}" for number in range(1000))
    assert log_lines(log) == tuple(f"line {number}" for number in range(1000 - MAX_LINES, 1000))
    lines = log_lines("\n".join(f"{number} " + "x" * 5000 for number in range(MAX_LINES)))
    assert {len(line) for line in lines} == {MAX_LINE}
    assert sum(map(len, lines)) <= MAX_LOG
    assert lines[-1].startswith(f"{MAX_LINES - 1} ")


# --- secrets


SECRETS = (
    "--api-key sk-abcdefghijkl",
    "error: unrecognized arguments: --hf-token hf_abcdefghijkl",
    "api_key='abcdefghijkl'",
    "HF_TOKEN=abcdefghijkl",
    '{"token": "abcdefghijkl"}',
    "Authorization: Bearer abcdefghijkl",
    "bearer abcdefghijkl",
    "token hf_abcdefghijkl was refused",
    "https://user:abcdefghijkl@hub.example.com/a",
    "https://cdn.example.com/a?X-Amz-Signature=abcdefghijkl&b=1",
    "AWS_SECRET_ACCESS_KEY and secret = abcdefghijkl",
    "key AKIAabcdefghijkl",
    "AWS_SECRET_ACCESS_KEY=abcdefghijkl",
    "{'aws_secret_access_key': 'abcdefghijkl'}",
    "SecretAccessKey: abcdefghijkl",
    "DefaultEndpointsProtocol=https;AccountKey=abcdefghijkl",
    "AZURE_STORAGE_KEY=abcdefghijkl",
    "https://account.blob.example.com/models/config.json?sv=2024-11-04&sig=abcdefghijkl",
)


@pytest.mark.parametrize("line", SECRETS)
def test_keys_are_never_quoted(line: str) -> None:
    assert "abcdefghijkl" not in redact(line)
    assert "abcdefghijkl" not in said_of("log", f"vllm serve: error: unrecognized arguments: {line}")


@pytest.mark.parametrize(
    "line",
    [
        "max_num_batched_tokens (2) must be",
        "Couldn't instantiate the backend tokenizer from one of:",
        "max_tokens=5",
        "tokenizer_mode='auto'",
        "design=5",
    ],
)
def test_words_that_sound_like_keys_stay(line: str) -> None:
    assert quote(line) == line


@given(st.text(max_size=5000))
def test_quotes_are_short_printable_and_of_one_line(text: str) -> None:
    shown = quote(text)
    assert len(shown) <= MAX_QUOTE
    assert shown.isprintable()


# --- cost


HOSTILE = (
    "a" * MAX_LINE,
    " " * MAX_LINE,
    "(" * MAX_LINE,
    "error: argument " * 60,
    "Model architectures " * 50,
    "token=" * 160,
    "://" * 330,
    "Unschedulable: Insufficient " * 35,
    "To serve at least one request with the model's max seq len (1" * 16,
    "(EngineCore pid=" * 60,
    "\x1b[" * 500,
)


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_lines_cost_little(line: str) -> None:
    """A whole log of them takes a fraction of a second; a pattern that backtracks takes minutes."""
    log = "\n".join([line] * MAX_LINES)
    began = time.process_time()
    lines = log_lines(log)
    diagnose(Evidence(dict.fromkeys(get_args(Where), lines), {}))
    quote(line)
    assert time.process_time() - began < 3.0


@given(st.lists(st.text(max_size=200), max_size=5), st.sampled_from(get_args(Where)))
def test_no_text_breaks_it(lines: list[str], where: Where) -> None:
    found = diagnose(Evidence({where: lines, "log": log_lines("\n".join(lines))}, {}))
    assert found is None or found.message.isprintable()
