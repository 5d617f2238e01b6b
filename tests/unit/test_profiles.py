"""A profile fills what the spec leaves unset, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning import spec_of
from vllm_operator.api.engine_spec import Profile
from vllm_operator.api.parse import parse_spec
from vllm_operator.engine import profiles
from vllm_operator.engine.profiles import PROFILES, Settings, filled

numbers = st.one_of(st.none(), st.integers(1, 65536))


def resolved(engine: dict[str, Any], gpu: dict[str, Any]) -> Settings:
    given_values = {key: value for key, value in engine.items() if value is not None}
    return profiles.settings(parse_spec(spec_of(engine=given_values, gpu=gpu)))


@given(st.sampled_from(list(Profile)), numbers, numbers, st.sampled_from([None, "auto", "fp8"]))
@settings(max_examples=100)
def test_given_values_win_and_the_batch_is_one_that_vllm_takes(
    profile: Profile, sequences: int | None, tokens: int | None, dtype: str | None
) -> None:
    if sequences and tokens and tokens < sequences:
        sequences, tokens = tokens, sequences  # the other way round is refused by the schema
    engine = {"profile": profile.value, "maxSequences": sequences, "maxBatchedTokens": tokens, "kvCacheDtype": dtype}
    found = resolved(engine, {})
    assert found.max_sequences == sequences or sequences is None
    assert found.max_batched_tokens == tokens or tokens is None
    assert found.kv_cache_dtype == (dtype or "auto")
    assert found.max_batched_tokens >= found.max_sequences >= 1
    assert found.performance_mode == PROFILES[profile].performance_mode


@pytest.mark.parametrize("profile", Profile)
def test_a_profile_alone(profile: Profile) -> None:
    assert resolved({"profile": profile.value}, {}) == PROFILES[profile]
    own = resolved({"profile": profile.value}, {"memoryUtilization": 0.5})
    assert own.memory_utilization == 0.5
    assert own.max_sequences == PROFILES[profile].max_sequences


def test_profiles_differ() -> None:
    assert len(set(PROFILES.values())) == len(Profile)
    assert PROFILES[Profile.THROUGHPUT].max_sequences > PROFILES[Profile.BALANCED].max_sequences
    assert PROFILES[Profile.LATENCY].max_sequences < PROFILES[Profile.BALANCED].max_sequences


def test_what_was_filled_is_told() -> None:
    spec = parse_spec(spec_of(engine={"profile": "Latency", "maxSequences": 16}, gpu={"memoryUtilization": 0.5}))
    assert filled(spec) == ("maxBatchedTokens=4096", "kvCacheDtype=auto")


@pytest.mark.parametrize(
    ("given_values", "sequences", "tokens"),
    [
        ({}, 256, 256 * 33),
        ({"maxSequences": 400}, 400, 400 * 33),
        ({"maxBatchedTokens": 3300}, 100, 3300),
        ({"profile": "Latency"}, 32, 4096),
    ],
)
def test_with_adapters_a_batch_holds_all_that_is_proposed(
    given_values: dict[str, Any], sequences: int, tokens: int
) -> None:
    adapters = {"adapters": [{"name": "sql", "source": "hf://acme/sql"}]}
    found = resolved({"lora": adapters, "speculative": {"tokens": 32}, **given_values}, {})
    assert (found.max_sequences, found.max_batched_tokens) == (sequences, tokens)
