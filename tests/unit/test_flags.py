"""extraArgs: what vLLM's parser would refuse is refused before a pod starts, and so is what the operator owns."""

from __future__ import annotations

import json
import runpy
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.engine.flags import Judgement, judge, policy
from vllm_operator.engine.vocabulary import VERSIONS, Vocabulary, vocabulary

DATA = Path(str(files("vllm_operator.engine") / "data"))
SCRIPT = Path(__file__).parents[2] / "scripts" / "dump_flags.py"


def known(version: str = "0.32") -> Vocabulary:
    found = vocabulary(version)
    assert found is not None
    return found


def judged(*arguments: str, version: str = "0.32") -> Judgement:
    return judge(arguments, known(version))


def sentences(*arguments: str, version: str = "0.32") -> list[str]:
    found = judged(*arguments, version=version)
    return [*found.refused, *found.unknown]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--seed", "0"],
        ["--seed", "-1"],
        ["--generation-config", "vllm", "--max-logprobs=5"],
        ["--quantization-config", '{"ignore": []}'],  # begins as --quantization, which is owned, and is another flag
        ["--reasoning-parser-plugin", "/plugins/a.py"],
        ["--kv-cache-dtype-skip-layers", "sliding_window", "0", "1"],
        ["--hf-overrides", '{"rope_scaling": {"factor": 2.0}}'],
        ["--hf-overrides", "package.module:function"],
        ["--chat-template={{ bos }} {% if x %}--port{% endif %}"],  # what looks like a flag in there is a value
        ["--override-generation-config.temperature", "0.2", "--override-generation-config.top_p=0.9"],
        ["--compilation-config.cudagraph_capture_sizes+", "1", "--compilation-config.cudagraph_capture_sizes+", "2"],
        ["-O3", "-cc.cudagraph_mode=NONE"],
        ["-O", "3", "-cc", '{"mode": 3, "max_cudagraph_capture_size": 1k}'],
        ["--max_log_len=10"],
        ["--max-log-len", "None"],
        ["--no-async-scheduling"],
        ["--max-num-scheduled-tokens", "8k"],
        ["--watermark=-0.5", "--allowed-origins", '["*"]'],
        ["--collect-detailed-traces", "model", "worker"],
        ["--moe-backend", "Deep-Gemm"],
        ["--middleware", "a.B", "--middleware", "a.C"],
        ["--chat-template", "-"],
    ],
    ids=shlex.join,
)
def test_passes(arguments: list[str]) -> None:
    assert sentences(*arguments) == []


@pytest.mark.parametrize("flag", policy().owned)
def test_owned_flags_are_refused_in_every_spelling(flag: str) -> None:
    field = policy().owned[flag]
    way_out = f"set {field} instead" if field else "remove it"
    negated = f"--no-{flag.removeprefix('--')}"
    for spelled in (flag, f"{flag}=1", f"{flag}.a.b", f"{flag}.list+", "--" + flag[2:].replace("-", "_"), negated):
        (sentence,) = judged("--seed", "0", spelled, "1").refused
        assert sentence.startswith("--")
        assert way_out in sentence
    sentence = sentences(flag[:-1])[0]
    assert "is set by the operator" in sentence.lower() or "was removed" in sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "--tensor-parallel-size 2",
            "--tensor-parallel-size is set by the operator: set spec.parallelism.tensor instead",
        ),
        ("--tensor_parallel_size=2", "--tensor-parallel-size is set by the operator"),
        ("--tensor-par 2", "--tensor-par abbreviates --tensor-parallel-size, which is set by the operator"),
        ("--tensor_par=2", "--tensor-par abbreviates --tensor-parallel-size"),
        ("-tp 2", "-tp (short for --tensor-parallel-size) is set by the operator"),
        ("-tp=2", "-tp (short for --tensor-parallel-size) is set by the operator"),
        ("-t 2", "-t abbreviates -tp"),
        ("-qfp8", "-q (short for --quantization) is set by the operator: set spec.model.quantization instead"),
        ("-n2", "-n (short for --nnodes) is set by the operator"),
        ("-dpl 1", "-dpl (short for --data-parallel-size-local) is set by the operator: set spec.replicas instead"),
        ("-sc {}", "-sc (short for --speculative-config) is set by the operator"),
        ("--no-enforce-eager", "--no-enforce-eager is set by the operator: set spec.engine.enforceEager instead"),
        ("--no-enf", "--no-enf abbreviates --no-enforce-eager"),
        ("--spec-tokens 4", "--spec-tokens is set by the operator: set spec.engine.speculative.tokens instead"),
        ("--kv-cache-memory-bytes 8G", "set spec.engine.kvCacheMemory instead"),
        ("--disable-log-stats", "--disable-log-stats is set by the operator: remove it"),
    ],
)
def test_owned(arguments: str, expected: str) -> None:
    (sentence,) = judged(*arguments.split()).refused
    assert expected in sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--swap-space=4"], "--swap-space was removed from vLLM: use spec.engine.kvOffload"),
        (["--guided_decoding_backend", "x"], "--guided-decoding-backend was removed from vLLM"),
        (["--seed 0"], "'--seed 0' is one word to vLLM: make the flag and its value two entries"),
        (["--sead", "0"], "vLLM 0.32 has no flag --sead: did you mean --seed?"),
        (["--max-num-seq5", "8"], "That is set by the operator: set spec.engine.maxSequences instead"),
        (["--async-sched"], "--async-sched abbreviates --async-scheduling: write flags in full"),
        (["-tp2"], "vLLM 0.32 has no flag -tp2: did you mean -tp?"),
        (["--wholly-unheard-of"], "vLLM 0.32 has no flag --wholly-unheard-of"),
        (["--monokernel"], "vLLM 0.32 has no flag --monokernel: it is one of 0.33"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "--enable-log-requests"], "--seed needs a value"),
        (["--seed", "x"], "--seed takes a whole number, not 'x'"),
        (["--seed", "1", "2"], "'2' is the value of no flag: --seed takes one"),
        (["--seed=1", "2"], "'2' is the value of no flag"),
        (["--watermark", "x"], "--watermark takes a number, not 'x'"),
        (["--max-log-len", "1.5"], "--max-log-len takes a whole number, not '1.5'"),
        (["--max-num-scheduled-tokens", "8Ki"], "takes a number such as 4096, 8k or 2G, not '8Ki'"),
        (["--max-num-scheduled-tokens", "1.5K"], "not '1.5K'"),
        (["--scheduling-policy", "fifo"], "--scheduling-policy takes one of fcfs, priority, not 'fifo'"),
        (["--moe-backend", "deep-gem"], "did you mean deep_gemm?"),
        (["--numa-bind-nodes", "0", "x"], "--numa-bind-nodes takes a whole number, not 'x'"),
        (["--allowed-origins", "*"], "--allowed-origins takes JSON, not '*'"),
        (["--hf-overrides", "{x}"], "--hf-overrides takes text, or a JSON object, not '{x}'"),
        (["--allowed-origins", "[" * 4000], "--allowed-origins takes JSON, not"),
        (["--compilation-config", '{"mode":' * 500], "--compilation-config takes a JSON object, not"),
        (["--compilation-config", "3"], "--compilation-config takes a JSON object, not '3'"),
        (["--compilation-config", '{"mod": 3}'], "--compilation-config has no key 'mod': did you mean mode?"),
        (["--compilation-config.mod", "3"], "--compilation-config has no key 'mod': did you mean mode?"),
        (["--compilation-config..mode", "3"], "has an empty key in '.mode'"),
        (["--seed.low", "1"], "--seed has no keys"),
        (["--override-generation-config.temperature"], "--override-generation-config needs a value"),
        (["--async-scheduling=true"], "--async-scheduling takes no value, so not 'true': write --async-scheduling or"),
        (["--async-scheduling", "true"], "--async-scheduling takes no value, so not 'true'"),
        (["--watermark", "-0.5"], "a value that begins with a dash is written --flag=value"),
        (["--allowed-origins", "[]", "--"], "vLLM 0.32 has no flag --"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice: keep one"),
        (["--async-scheduling", "--no-async-scheduling"], "--async-scheduling is given twice"),
        (["-cc", "{}", "--compilation-config", "{}"], "--compilation-config is given twice"),
        (["-cc", "{}", "-cc.mode", "3"], "--compilation-config is given twice"),
        (["-cc.mode=2", "-cc.mode", "3"], "--compilation-config is given twice"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_refused(arguments: list[str], expected: str) -> None:
    assert expected in sentences(*arguments)[0]


def test_what_a_version_knows_again_is_not_removed() -> None:
    assert "was removed" in sentences("--disable-log-requests")[0]
    assert sentences("--disable-log-requests", version="0.33") == []
    assert sentences("--no-enable-log-requests", version="0.33") == []


def test_a_word_that_no_flag_precedes_is_refused() -> None:
    """--lora-modules, --served-model-name and others take any number of words."""
    (sentence,) = judged("sql2=acme/sql", "--seed", "0").refused
    assert "must begin with a flag: 'sql2=acme/sql'" in sentence


def test_every_problem_is_named() -> None:
    assert len(sentences("word", "--port", "1", "-tp2", "--model", "x", "--task", "y", "--seed", "z")) == 6


def test_flags_that_load_code_are_told() -> None:
    found = judged("--worker-cls", "acme.Worker", "--middleware=acme.M", "--seed", "1")
    assert found == Judgement(plugins=("--middleware", "--worker-cls"))


_words = st.one_of(
    st.sampled_from(sorted(known().flags)),
    st.sampled_from(["0", "-1", "x", "{}", "--", "-", "--x.y", "=", "--seed=1", "-O", "{", "None", ""]),
    st.text(st.characters(codec="utf-8"), max_size=12),
)


@given(st.lists(_words, max_size=5))
def test_any_words_can_be_judged(arguments: list[str]) -> None:
    """Never raises, and always answers alike."""
    assert sentences(*arguments) == sentences(*arguments)


@given(st.sampled_from(sorted(known().flags)), st.data())
def test_no_beginning_of_a_flag_passes(flag: str, data: st.DataObject) -> None:
    shorter = flag[: data.draw(st.integers(2, len(flag)))]
    assert shorter in known().flags or sentences(shorter) != []


def test_every_data_file_is_a_known_version_and_as_the_script_writes_it() -> None:
    text = runpy.run_path(str(SCRIPT))["text"]
    paths = {path.stem.removeprefix("flags-"): path for path in DATA.glob("flags-*.json")}
    assert set(paths) == set(VERSIONS)
    for version, path in paths.items():
        data = json.loads(path.read_text())
        assert data["vllm"].startswith(f"{version}.")
        assert text(data) == path.read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tables_are_consistent(version: str) -> None:
    flags = known(version).flags
    table = policy()
    assert len({flag.name for flag in flags.values()}) >= 300
    assert all(name.startswith("--") for name in (*table.owned, *table.removed))
    assert not set(table.removed) & set(table.owned)
    assert all(flag.name in flags and spelled in flag.spellings for spelled, flag in flags.items())
    assert table.plugins <= set(flags), "what is said of a flag is said of one that exists"
    newer = {"--device-memory-utilization", "--grpc-port"}
    assert set(table.owned) - newer <= set(flags)
    assert set(table.owned) <= set(known("0.32").flags)


def test_no_removed_flag_is_known() -> None:
    """But for those that came back, and the one that went between two versions that are known."""
    came_back = {"--disable-log-requests"}
    assert set(policy().removed) & set(known("0.33").flags) == came_back
    assert not set(policy().removed) & set(known("0.32").flags)


def test_successors_are_flags_or_fields() -> None:
    for name, successor in policy().removed.items():
        flags = [word.partition("=")[0].rstrip(",") for word in successor.split() if word.startswith("--")]
        assert all(flag.partition(".")[0] in known().flags for flag in flags), name
        assert flags or successor.startswith(("nothing, ", "spec.", "an image ")), name
