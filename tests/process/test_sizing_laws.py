"""Laws that hold for any model and any card."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_operator.sizing import catalogue, gpus
from vllm_operator.sizing.choose import assess, size
from vllm_operator.sizing.facts import facts_from_config
from vllm_operator.sizing.families import FAMILIES
from vllm_operator.sizing.memory import Settings
from vllm_operator.sizing.rules import shape_reasons
from vllm_operator.sizing.terms import Load
from vllm_operator.sizing.types import Offer, SizingRequest, Verdict
from vllm_operator.sizing.versions import terms_of
from vllm_operator.sizing.weights import Shape

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MODELS = [facts for name in catalogue.names()[::6] if (facts := catalogue.lookup(name))]
CARDS = list(gpus.gpus().values())

requests = st.builds(
    SizingRequest,
    model=st.sampled_from(MODELS),
    offers=st.lists(
        st.builds(Offer, st.sampled_from(CARDS), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2])),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_length=st.sampled_from(["auto", 1024, 8192]),
    max_sequences=st.sampled_from([16, 256]),
    enforce_eager=st.booleans(),
    engine_version=st.sampled_from(["0.25", "0.32"]),
)

FITS = {Verdict.FITS}


@QUICK
@given(requests)
def test_the_same_question_gets_the_same_answer(request: SizingRequest) -> None:
    assert assess(request) == assess(request)


@QUICK
@given(requests)
def test_what_fits_keeps_the_rules(request: SizingRequest) -> None:
    answer = assess(request)
    if answer.verdict is Verdict.REFUSED:
        assert answer.reasons
        return
    setting = Settings(Load(8192, 256, 8192), terms_of(request.engine_version), 0.9)
    facts = request.model
    assert facts is not None
    assert answer.tensor * answer.pipeline == answer.gpus
    assert not shape_reasons(facts, Shape(answer.tensor, answer.pipeline, answer.expert), setting)  # type: ignore[arg-type]
    assert answer.per_gpu is not None
    sizes = (
        answer.per_gpu.weights,
        answer.per_gpu.kv_cache.low,
        answer.per_gpu.activations.low,
        answer.per_gpu.reserve,
    )
    assert min(sizes) >= 0
    assert answer.per_gpu.kv_cache.low <= answer.per_gpu.kv_cache.high


@QUICK
@given(requests, st.sampled_from(CARDS))
def test_one_more_offer_never_takes_a_fit_away(request: SizingRequest, card: gpus.GPU) -> None:
    if assess(request).verdict in FITS:
        assert assess(replace(request, offers=(*request.offers, Offer(card, 8, 1)))).verdict in FITS


@QUICK
@given(requests)
def test_a_larger_node_never_takes_a_fit_away(request: SizingRequest) -> None:
    if assess(request).verdict in FITS:
        larger = tuple(replace(offer, gpus_per_node=offer.gpus_per_node * 2) for offer in request.offers)
        assert assess(replace(request, offers=larger)).verdict in FITS


@QUICK
@given(requests)
def test_a_shorter_length_is_never_harder(request: SizingRequest) -> None:
    asked = replace(request, max_length=8192)
    if assess(asked).verdict in FITS:
        assert assess(replace(asked, max_length=512)).verdict in FITS


@QUICK
@given(requests, st.sampled_from([0.91, 0.95]))
def test_more_utilisation_never_takes_a_fit_away_before_headroom_speaks(
    request: SizingRequest, utilization: float
) -> None:
    if assess(request).verdict in FITS:
        answer = assess(replace(request, memory_utilization=utilization))
        spoke = any(one.reason.code == "HeadroomTooSmall" for one in answer.rejected)
        assert answer.verdict in FITS or spoke


@settings(max_examples=15, deadline=None)
@given(requests)
def test_every_refusal_has_a_nearest_fit_or_says_that_none_exists(request: SizingRequest) -> None:
    small = replace(request, offers=(Offer(CARDS[0], 1, 1),), max_length=8192)
    answer = size(small)
    assert (answer.verdict is Verdict.REFUSED) == bool(answer.nearest_fit)


scalars = st.none() | st.booleans() | st.integers(-5, 2**45) | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
KEYS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "head_dim",
    "text_config",
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "kv_lora_rank",
    "block_configs",
    "hybrid_override_pattern",
    "mlp_only_layers",
    "sliding_window",
    "max_position_embeddings",
    "tie_word_embeddings",
    "vision_config",
    "n_shared_experts",
    "model_type",
]
SOUND: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
architectures = st.sampled_from([*FAMILIES, "Nobody"])
changed = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(architectures, changed, st.booleans())
def test_no_config_raises(architecture: str, changes: dict[str, Any], sound: bool) -> None:  # noqa: FBT001
    config = {"architectures": [architecture], **(SOUND if sound else {}), **changes}
    facts = facts_from_config(config)
    answer = assess(SizingRequest(facts, (Offer(CARDS[0], 2, 1),)))
    assert answer.verdict in set(Verdict)
    assert bool(facts.problem) <= (answer.verdict is Verdict.REFUSED)
    json.dumps(facts.problem)
