"""The command line of `vllm serve`.

Flags and their meaning: vllm/engine/arg_utils.py and vllm/entrypoints/openai/cli_args.py of vLLM 0.32. Everything is
said explicitly, in exec form, with the model first (flags that take several words would swallow it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from vllm_operator.api.engine_spec import Engine
from vllm_operator.api.feature_spec import LoRA, Speculative, StructuredOutputs
from vllm_operator.api.quantity import to_bytes
from vllm_operator.api.spec import Spec
from vllm_operator.engine.profiles import Settings
from vllm_operator.engine.source import Scheme, parse_source, served_names
from vllm_operator.sizing.types import Sizing, Verdict

PORT = 8000
DRAINING_MODULE = "connection_draining"  # in `data`; mounted into the server's container
LAST_SECONDS = 10  # what SIGTERM finds in flight has had spec.lifecycle.drainSeconds before it
CPU_KV_CACHE = "4Gi"  # without a size vLLM's CPU backend takes nearly all memory of the node for its KV cache
_PREFIX_CACHING = {True: "--enable-prefix-caching", False: "--no-enable-prefix-caching", None: None}


def hub_id(source: str) -> str:
    """Repository id of an `hf://` address."""
    return source.removeprefix("hf://")


def command(spec: Spec) -> list[str]:
    """What the container runs: vLLM, or the user's own server."""
    return list(spec.engine.command) or ["vllm", "serve"]


def arguments(spec: Spec, sizing: Sizing, chosen: Settings, commit: str = "") -> list[str]:
    """Arguments of the server. An own server gets the user's arguments and nothing else.

    `commit` is what the revision was found to mean; replicas that start later serve the same.
    """
    if spec.engine.command:
        return list(spec.engine.extra_args)
    return [
        *_model(spec, commit or spec.model.revision),
        *_server(spec),
        *_shape(spec, sizing),
        *_batching(spec, sizing, chosen),
        *_limits(spec.engine),
        *_features(spec),
        *spec.engine.extra_args,
    ]


def _model(spec: Spec, revision: str) -> Iterator[str]:
    source = parse_source(spec.model.source)
    yield source.uri
    yield "--served-model-name"
    yield from served_names(spec.model)
    if source.scheme is Scheme.HUB:
        yield from ("--revision", revision)
    yield from ("--dtype", spec.model.dtype)
    if spec.model.quantization:
        yield from ("--quantization", spec.model.quantization)
    if spec.model.trust_remote_code:
        yield "--trust-remote-code"


def _server(spec: Spec) -> Iterator[str]:
    yield from ("--host", "0.0.0.0", "--port", str(PORT))  # noqa: S104 - a Service must reach the pod
    yield from ("--shutdown-timeout", str(min(spec.lifecycle.drain_seconds, LAST_SECONDS)))
    yield from ("--middleware", f"{DRAINING_MODULE}.ConnectionDraining")


def _shape(spec: Spec, sizing: Sizing) -> Iterator[str]:
    yield from ("--tensor-parallel-size", str(sizing.tensor))
    yield from ("--pipeline-parallel-size", str(sizing.pipeline))
    if sizing.expert or spec.parallelism.expert:
        yield "--enable-expert-parallel"


def _batching(spec: Spec, sizing: Sizing, chosen: Settings) -> Iterator[str]:
    yield from ("--max-model-len", str(sizing.max_length or spec.model.max_length))
    yield from ("--max-num-seqs", str(chosen.max_sequences))
    yield from ("--max-num-batched-tokens", str(chosen.max_batched_tokens))
    yield from ("--kv-cache-dtype", chosen.kv_cache_dtype)
    if not is_cpu(spec):
        yield from ("--gpu-memory-utilization", f"{chosen.memory_utilization:g}")
    if cache := kv_cache_bytes(spec):
        yield from ("--kv-cache-memory-bytes", str(cache))
    if chosen.performance_mode != "balanced":
        yield from ("--performance-mode", chosen.performance_mode)


def kv_cache_bytes(spec: Spec) -> int | None:
    """Size of the KV cache of one GPU, or of the CPU backend, where it is said; None: what is left of the GPU."""
    asked = spec.engine.kv_cache_memory or (CPU_KV_CACHE if is_cpu(spec) else None)
    return to_bytes(asked) if asked else None


def _limits(engine: Engine) -> Iterator[str]:
    """What may be kept outside the batch: KV cache in the memory of the node (in GiB), and waiting requests."""
    if engine.kv_offload:
        yield from ("--kv-offloading-size", f"{to_bytes(engine.kv_offload.size) / 2**30:g}")
    if engine.max_queued_requests is not None:
        yield from ("--max-num-queued-reqs", str(engine.max_queued_requests))
    if engine.max_queued_tokens is not None:
        yield from ("--max-num-queued-tokens", str(engine.max_queued_tokens))


def _features(spec: Spec) -> Iterator[str]:
    engine = spec.engine
    if flag := _PREFIX_CACHING[engine.prefix_caching]:
        yield flag
    if engine.enforce_eager:
        yield "--enforce-eager"
    if engine.speculative:
        yield from ("--speculative-config", _speculative(engine.speculative))
    if engine.lora:
        yield from _lora(engine.lora)
    if engine.structured_outputs:
        yield from ("--structured-outputs-config", _structured_outputs(engine.structured_outputs))
    if engine.tool_calling:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", engine.tool_calling.parser)
    if engine.reasoning:
        yield from ("--reasoning-parser", engine.reasoning.parser)


def _speculative(asked: Speculative) -> str:
    config: dict[str, object] = {"method": asked.method, "num_speculative_tokens": asked.tokens}
    if asked.model:
        config["model"] = hub_id(asked.model)
    lookup = {"prompt_lookup_max": asked.prompt_lookup_max, "prompt_lookup_min": asked.prompt_lookup_min}
    config |= {key: tokens for key, tokens in lookup.items() if tokens is not None}
    return _compact(config)


def _lora(asked: LoRA) -> Iterator[str]:
    yield from ("--enable-lora", "--max-lora-rank", str(asked.max_rank), "--max-loras", str(len(asked.adapters)))
    yield "--lora-modules"
    for adapter in asked.adapters:
        yield _compact({"name": adapter.name, "path": hub_id(adapter.source)})


def _structured_outputs(asked: StructuredOutputs) -> str:
    config: dict[str, object] = {"backend": asked.backend}
    if asked.disable_any_whitespace:
        config["disable_any_whitespace"] = True
    return _compact(config)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def is_cpu(spec: Spec) -> bool:
    """Whether the CPU backend is asked for."""
    return spec.gpu.count == 0


def sized(sizing: Sizing) -> bool:
    """Whether the shape comes from sizing (and not from `sizing.mode: Off` or the CPU backend)."""
    return sizing.verdict is not Verdict.SKIPPED
