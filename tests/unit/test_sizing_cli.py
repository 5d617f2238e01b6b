"""`vllm-operator size`: what it prints and how it exits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import vllm_operator
from sizing.points import HERE
from vllm_operator.cli import size as command
from vllm_operator.errors import UsageError


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["size", *words]))


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    run(*words, "-o", "json")
    content: dict[str, object] = json.loads(capsys.readouterr().out)
    return content


def test_a_fit_is_a_table_with_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "Qwen/Qwen3-8B", "--gpu", "L4") == 0
    out = capsys.readouterr().out
    assert out.startswith("Fits: 1 x L4 (TP 1)")
    assert "[WWWW" in out
    assert "K KV cache" in out


def test_a_model_may_be_named_as_a_resource_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    plain = answer(capsys, "meta-llama/Llama-3.1-70B-Instruct", "--gpu", "A100-80")
    assert answer(capsys, "hf://meta-llama/Llama-3.1-70B-Instruct", "--gpu", "A100-80") == plain


def test_a_refusal_exits_3_and_names_the_nearest_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("meta-llama/Llama-3.1-405B-Instruct", "--gpu", "A100-80", "--gpus", "8") == 3
    out = capsys.readouterr().out
    assert "WeightsExceedMemory" in out
    assert "Nearest fit: It fits with" in out


def test_an_estimate_exits_1() -> None:
    assert run("13B", "--gpu", "A100-80") == 1


def test_json_has_gib_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    content = answer(
        capsys, "--model", str(HERE / "configs" / "Qwen--Qwen3-32B"), "--gpu", "H100", "--max-length", "32768"
    )
    assert content["verdict"] == "Fits"
    assert content["tensorParallel"] == 2
    per = content["perGPU"]
    assert isinstance(per, dict)
    assert per["capacity"] == 79.18
    assert per["weights"] == pytest.approx(30.5, abs=0.1)
    assert set(per["kvCache"]) == {"low", "high"}
    assert {"kvTokens", "maxConcurrency", "nearestFit", "reasons", "nodes", "pipelineParallel"} <= set(content)


def test_yaml_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    run("Qwen/Qwen3-8B", "--gpu", "L4", "-o", "yaml")
    as_yaml = yaml.safe_load(capsys.readouterr().out)
    assert as_yaml == answer(capsys, "Qwen/Qwen3-8B", "--gpu", "L4")


def test_every_option_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    base = answer(capsys, "Qwen/Qwen3-30B-A3B", "--gpu", "H100:8")
    options = [
        ("--tensor", "4"), ("--pipeline", "2"), ("--gpus", "4"), ("--expert-parallel",), ("--max-length", "4096"),
        ("--max-sequences", "1024"), ("--max-batched-tokens", "16384"), ("--memory-utilization", "0.8"),
        ("--kv-cache-dtype", "fp8"), ("--quantization", "fp8"), ("--enforce-eager",), ("--lora", "4x64"),
        ("--engine-version", "0.25"), ("--dtype", "float32"), ("--kv-cache-memory", "4Gi"),
    ]  # fmt: skip
    for words in options:
        assert answer(capsys, "Qwen/Qwen3-30B-A3B", "--gpu", "H100:8", *words) != base, words
    assert answer(capsys, "Qwen/Qwen3-30B-A3B", "--gpu", "H100:8", "--engine-version", "0.32") == base


def test_a_draft_model_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("Qwen/Qwen3-32B", "--gpu", "H100", "--gpus", "1", "--speculative-tokens", "4")
    assert answer(capsys, *asked)["verdict"] == "Fits"
    refused = answer(capsys, *asked, "--speculative-model", "hf://Qwen/Qwen3-8B")
    assert refused["verdict"] == "Refused"
    assert (
        answer(capsys, *asked, "--speculative-method", "draft_model", "--speculative-model", "Qwen/Qwen3-8B") == refused
    )
    assert answer(capsys, *asked, "--speculative-method", "draft_model")["verdict"] == "Estimated"


def test_all_gpus_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Qwen/Qwen3-8B", "--all-gpus") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["GPU", "VERDICT"]
    assert len(lines) >= 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "L4"), "give --model"),
        (("Qwen/Qwen3-9B-nope", "--gpu", "nope"), "not in the table"),
        (("nobody/nothing", "--gpu", "L4"), "not in the catalogue"),
        (("Qwen/Qwen3-8", "--gpu", "L4"), "Did you mean Qwen/Qwen3-8B"),
        (("./missing/config.json", "--gpu", "L4"), "no such file"),
        (("{not json", "--gpu", "L4"), "no JSON"),
        (("Qwen/Qwen3-8B", "--gpu", "L4:x"), "after the colon"),
        (("Qwen/Qwen3-8B", "--gpu", "L4", "--speculative-model", "nobody/nothing"), "not in the catalogue"),
        (
            ("Qwen/Qwen3-8B", "--speculative-method", "eagle3", "--speculative-model", "acme/head"),
            "leave it out with eagle3",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        run(*words)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "words", [("--tensor", "0"), ("--memory-utilization", "2"), ("--lora", "x"), ("--max-length", "-3")]
)
def test_bad_numbers_exit_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run("Qwen/Qwen3-8B", *words)
    assert raised.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_facts_may_be_given_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((HERE / "configs" / "Qwen--Qwen3-8B" / "config.json").read_text())
    per = answer(capsys, json.dumps(config), "--gpu", "L4")["perGPU"]
    assert isinstance(per, dict)
    assert per["weights"] == pytest.approx(15.266, abs=0.001)


def test_an_unknown_card_is_sized_by_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "Qwen/Qwen3-8B", "--gpu", "Acme", "--gpu-memory", "80Gi")["verdict"] == "Fits"


def test_the_size_of_a_safetensors_index_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((HERE / "configs" / "Qwen--Qwen3-8B" / "config.json").read_text())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 16381470720}}))
    assert answer(capsys, str(tmp_path), "--gpu", "L4")["verdict"] == "Fits"


def test_answering_loads_no_cluster_client() -> None:
    code = (
        "import sys, argparse; from vllm_operator.cli import size; p = argparse.ArgumentParser();"
        "size.add_parser(p.add_subparsers()); size.run(p.parse_args(['size', 'Qwen/Qwen3-8B', '--gpu', 'L4']));"
        "heavy = {'kopf', 'kubernetes', 'pydantic', 'asyncio', 'jinja2'} & set(sys.modules); sys.exit(len(heavy))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(vllm_operator.__file__).parents[1])}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 5  # 0.3 s is the goal; a busy machine gets room


ROWS = """
gpus:
  Acme-X1-64GB: {name: X1, memoryGiB: 64, computeCapability: "9.0"}
  Acme-X2-64GB: {name: X2}
models:
  acme/private:
    config: {architectures: [LlamaForCausalLM], hidden_size: 1024, num_hidden_layers: 4, num_attention_heads: 8,
             vocab_size: 32000, intermediate_size: 2048, max_position_embeddings: 4096, torch_dtype: bfloat16}
"""


def test_rows_of_the_users_own_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.yaml"
    rows.write_text(ROWS)
    assert run("hf://acme/private", "--gpu", "X1", "--tables", str(rows)) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Fits: 1 x X1 (TP 1)")
    assert said.err.startswith(f"{rows}: line 4: gpus.Acme-X2-64GB")


def test_the_operators_variable_names_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.yaml").write_text(ROWS)
    monkeypatch.setenv("VLLM_OPERATOR_TABLES", str(tmp_path / "rows.yaml"))
    run("acme/private", "--all-gpus")
    assert "X1 " in capsys.readouterr().out
    with pytest.raises(UsageError, match="--tables='none' cannot be read"):
        run("acme/private", "--tables", "none")
