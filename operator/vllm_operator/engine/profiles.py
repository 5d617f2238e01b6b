"""Profiles: named settings that fill only what the spec leaves unset."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.api.engine_spec import Profile
from vllm_operator.api.spec import Spec


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine runs with; every value is passed to vLLM explicitly.

    Left to itself vLLM derives batch sizes from the *name* of the card (`EngineArgs.get_batch_defaults` in
    vllm/engine/arg_utils.py), so that the same spec would need different memory on two cards of one size.
    """

    max_sequences: int
    max_batched_tokens: int
    memory_utilization: float
    kv_cache_dtype: str = "auto"
    performance_mode: str = "balanced"  # --performance-mode of vLLM 0.32


PROFILES = {
    Profile.BALANCED: Settings(256, 8192, 0.9),
    # More requests in a batch, longer steps: tokens per second before time to first token.
    Profile.THROUGHPUT: Settings(512, 16384, 0.92, performance_mode="throughput"),
    # Few requests in a batch: each gets its next token sooner.
    Profile.LATENCY: Settings(32, 4096, 0.9, performance_mode="interactivity"),
    # Few requests with a lot of KV cache each.
    Profile.LONG_CONTEXT: Settings(16, 8192, 0.92),
}


def settings(spec: Spec) -> Settings:
    """The spec's own values, and the profile's where it has none.

    A profile's batch yields to a value that the user gave: tokens per batch never fall below what its sequences need.
    """
    engine, profile = spec.engine, PROFILES[spec.engine.profile]
    needed = engine.tokens_per_sequence
    most = engine.max_batched_tokens // needed if engine.max_batched_tokens else profile.max_sequences
    sequences = engine.max_sequences or min(profile.max_sequences, most)
    return Settings(
        max_sequences=sequences,
        max_batched_tokens=engine.max_batched_tokens or max(profile.max_batched_tokens, sequences * needed),
        memory_utilization=spec.gpu.memory_utilization or profile.memory_utilization,
        kv_cache_dtype=engine.kv_cache_dtype or profile.kv_cache_dtype,
        performance_mode=profile.performance_mode,
    )


def filled(spec: Spec) -> tuple[str, ...]:
    """Which settings the profile filled, as `field=value`, for the status."""
    resolved, engine = settings(spec), spec.engine
    given = {
        "maxSequences": (engine.max_sequences, resolved.max_sequences),
        "maxBatchedTokens": (engine.max_batched_tokens, resolved.max_batched_tokens),
        "memoryUtilization": (spec.gpu.memory_utilization, resolved.memory_utilization),
        "kvCacheDtype": (engine.kv_cache_dtype, resolved.kv_cache_dtype),
    }
    return tuple(f"{name}={value}" for name, (asked, value) in given.items() if asked is None)
