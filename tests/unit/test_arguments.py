"""The command line of the server: every field is some argument, said exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planning import plan_of, server_of, spec_of

HEAD = ["Qwen/Qwen3-8B", "--served-model-name", "Qwen/Qwen3-8B", "--revision", "main", "--dtype", "auto"]
SERVER = [
    *("--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "10"),  # noqa: S104
    *("--middleware", "connection_draining.ConnectionDraining"),
]
SHAPE = ["--tensor-parallel-size", "1", "--pipeline-parallel-size", "1", "--max-model-len", "16384"]
BATCH = ["--max-num-seqs", "256", "--max-num-batched-tokens", "8192", "--kv-cache-dtype", "auto"]
SHARE = ["--gpu-memory-utilization", "0.9"]
PLAIN = [*HEAD, *SERVER, *SHAPE, *BATCH, *SHARE]


def argv(**fields: Any) -> list[str]:  # noqa: ANN401 - fields of a spec
    args: list[str] = server_of(spec_of(**fields))["args"]
    return args


def model(**fields: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"source": "hf://Qwen/Qwen3-8B", "maxLength": 16384, **fields}


def test_a_plain_server_says_everything_explicitly() -> None:
    assert server_of(spec_of())["command"] == ["vllm", "serve"]
    assert argv() == PLAIN


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"servedNames": ["a", "b"]}, ["--served-model-name", "a", "b", "--revision"]),
        ({"revision": "v1.0"}, ["--revision", "v1.0"]),
        ({"dtype": "bfloat16"}, ["--dtype", "bfloat16"]),
        ({"quantization": "fp8", "source": "hf://microsoft/phi-4"}, ["--quantization", "fp8"]),
        ({"trustRemoteCode": True}, ["--trust-remote-code", "--host"]),
        ({"maxLength": 4096}, ["--max-model-len", "4096"]),
        ({"maxLength": "auto"}, ["--max-model-len", "40960"]),  # the model's own limit, which fits
    ],
)
def test_fields_of_the_model(fields: dict[str, Any], expected: list[str]) -> None:
    gpu = {"product": "NVIDIA-H100-80GB-HBM3"}
    assert in_order(expected, argv(model=model(**fields), gpu=gpu))


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"maxSequences": 8}, ["--max-num-seqs", "8", "--max-num-batched-tokens", "8192"]),
        ({"maxBatchedTokens": 4096}, ["--max-num-batched-tokens", "4096"]),
        ({"kvCacheDtype": "float16"}, ["--kv-cache-dtype", "float16"]),
        ({"prefixCaching": True}, ["--enable-prefix-caching"]),
        ({"prefixCaching": False}, ["--no-enable-prefix-caching"]),
        ({"enforceEager": True}, ["--enforce-eager"]),
        ({"speculative": {}}, ["--speculative-config", '{"method":"ngram","num_speculative_tokens":4}']),
        (
            {"speculative": {"method": "eagle3", "tokens": 2, "model": "hf://acme/draft"}},
            ["--speculative-config", '{"method":"eagle3","num_speculative_tokens":2,"model":"acme/draft"}'],
        ),
        (
            {"lora": {"maxRank": 64, "adapters": [{"name": n, "source": f"hf://acme/{n}"} for n in ("a", "b")]}},
            ["--enable-lora", "--max-lora-rank", "64", "--max-loras", "2", "--lora-modules",
             '{"name":"a","path":"acme/a"}', '{"name":"b","path":"acme/b"}'],
        ),
        ({"structuredOutputs": {"backend": "guidance"}}, ["--structured-outputs-config", '{"backend":"guidance"}']),
        (
            {"structuredOutputs": {"backend": "xgrammar", "disableAnyWhitespace": True}},
            ["--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'],
        ),
        ({"toolCalling": {"parser": "hermes"}}, ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]),
        ({"reasoning": {"parser": "qwen3"}}, ["--reasoning-parser", "qwen3"]),
        (
            {"speculative": {"promptLookupMax": 4, "promptLookupMin": 2}},
            ['{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4,"prompt_lookup_min":2}'],
        ),
        ({"kvCacheMemory": "8Gi"}, ["--gpu-memory-utilization", "0.9", "--kv-cache-memory-bytes", str(8 * 2**30)]),
        ({"kvOffload": {"size": "24Gi"}}, ["--kv-offloading-size", "24"]),
        ({"kvOffload": {"size": "1536Mi"}}, ["--kv-offloading-size", "1.5"]),
        ({"maxQueuedRequests": 0}, ["--max-num-queued-reqs", "0"]),
        ({"maxQueuedRequests": 512, "maxQueuedTokens": 65536},
         ["--max-num-queued-reqs", "512", "--max-num-queued-tokens", "65536"]),
        ({"profile": "Latency"}, ["--performance-mode", "interactivity"]),
    ],
)  # fmt: skip
def test_fields_of_the_engine(engine: dict[str, Any], expected: list[str]) -> None:
    assert in_order(expected, argv(engine=engine))


def test_a_given_kv_cache_is_what_sizing_counts_with() -> None:
    sizing = plan_of(spec_of(engine={"kvCacheMemory": "6Gi"})).sizing
    assert sizing is not None
    assert sizing.per_gpu is not None
    assert sizing.per_gpu.kv_cache.low == sizing.per_gpu.kv_cache.high == pytest.approx(6)


def test_a_kv_cache_beyond_the_card_is_refused_or_warned_of() -> None:
    engine = {"kvCacheMemory": "60Gi"}
    refused = plan_of(spec_of(engine=engine)).refusal
    assert refused is not None
    assert (refused.condition, refused.reason) == ("Sized", "KVCacheTooLarge")
    assert "60.0 GiB of KV cache do not fit: 21.7 GiB of one A100-40 are left for it" in refused.message
    tried = plan_of(spec_of(engine=engine, sizing={"mode": "Advisory"}))
    assert tried.refusal is None
    assert [warning.reason for warning in tried.warnings] == ["SizeNotSafe"]


def test_features_follow_the_plain_server_and_extra_arguments_come_last() -> None:
    engine = {
        "prefixCaching": True,
        "toolCalling": {"parser": "hermes"},
        "reasoning": {"parser": "qwen3"},
        "extraArgs": ["--seed", "7"],
    }
    added = ["--enable-prefix-caching", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    assert argv(engine=engine) == [*PLAIN, *added, "--reasoning-parser", "qwen3", "--seed", "7"]


def test_numbers_of_gpus_become_a_shape() -> None:
    gpu = {"product": "NVIDIA-H100-80GB-HBM3", "count": 4}
    args = argv(gpu=gpu, parallelism={"tensor": 2, "pipeline": 2})
    assert in_order(["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2", "--max-model-len"], args)


def test_expert_parallelism() -> None:
    spec = {
        "model": {"source": "hf://Qwen/Qwen3-30B-A3B-Instruct-2507", "maxLength": 8192},
        "gpu": {"product": "NVIDIA-A100-SXM4-80GB", "count": 2},
        "parallelism": {"expert": True},
    }
    assert "--enable-expert-parallel" in server_of(spec)["args"]


@pytest.mark.parametrize(
    ("source", "head"),
    [
        ("pvc://models/chat/v7", ["/model", "--served-model-name", "v7", "--dtype"]),
        ("pvc://models", ["/model", "--served-model-name", "models", "--dtype"]),
        ("s3://acme/chat/qwen/", ["s3://acme/chat/qwen", "--served-model-name", "qwen", "--dtype"]),
        ("s3://acme", ["s3://acme", "--served-model-name", "acme", "--dtype"]),
        (f"oci://reg.example:5000/m/llama:v1@sha256:{'0' * 64}", ["/model", "--served-model-name", "llama", "--dtype"]),
    ],
)
def test_other_sources_have_no_revision(source: str, head: list[str]) -> None:
    spec = spec_of(model={"source": source, "maxLength": 4096, "facts": {"parameters": 7}})
    assert server_of(spec)["args"][:4] == head


def test_an_own_server_gets_its_own_arguments_only() -> None:
    engine = {"image": "ghcr.io/acme/chat:1.0", "command": ["uvicorn", "chat:app"], "extraArgs": ["--port", "8000"]}
    server = server_of(spec_of(engine=engine))
    assert (server["command"], server["args"]) == (["uvicorn", "chat:app"], ["--port", "8000"])


def test_the_cpu_backend_has_no_share_of_a_gpu_and_a_bounded_cache() -> None:
    cpu = {"model": {"source": "hf://Qwen/Qwen3-0.6B"}, "gpu": {"count": 0}}
    args = server_of(cpu)["args"]
    assert "--gpu-memory-utilization" not in args
    assert in_order(["--kv-cache-memory-bytes", str(4 * 2**30)], args)
    assert in_order(["--max-model-len", "auto"], args)
    given = server_of({**cpu, "engine": {"kvCacheMemory": "64Mi"}})["args"]
    assert in_order(["--kv-cache-memory-bytes", str(64 * 2**20)], given)


def test_sizing_off_takes_the_spec_at_its_word() -> None:
    spec = spec_of(
        model={"source": "hf://acme/assistant"},
        gpu={"count": 4, "memoryUtilization": 0.5},
        parallelism={"pipeline": 2},
        sizing={"mode": "Off"},
    )
    args = server_of(spec)["args"]
    assert in_order(["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2", "--max-model-len", "auto"], args)
    assert in_order(["--gpu-memory-utilization", "0.5"], args)


def test_words_reach_the_container_as_they_are() -> None:
    """Exec form: no shell reads them, and Kubernetes' $(VAR) is the user's own."""
    words = ["--chat-template={{ x }} {% y %}", "--hf-overrides", json.dumps({"a": ['"', "'", "$(id)", "`id`", "\n"]})]
    assert argv(engine={"extraArgs": words})[-3:] == words


def test_the_plan_says_which_arguments_it_uses() -> None:
    assert list(plan_of(spec_of()).arguments) == argv()


def in_order(expected: list[str], args: list[str]) -> bool:
    """Whether the words stand in a row."""
    size = len(expected)
    return any(args[start : start + size] == expected for start in range(len(args) - size + 1))
