"""The KV cache: blocks and tokens that vLLM's own code gives."""

from __future__ import annotations

import pytest

from sizing.points import Point, model, points
from vllm_operator.sizing import catalogue
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.kv import Kind, Pool
from vllm_operator.sizing.memory import Settings, pools
from vllm_operator.sizing.reader import Reader
from vllm_operator.sizing.terms import Load
from vllm_operator.sizing.versions import terms_of
from vllm_operator.sizing.weights import GIB, Shape
from vllm_operator.sizing.windows import local_span

ALONE = Shape()


def pool_of(facts: ModelFacts | None, shape: Shape = ALONE, length: int = 8192, dtype: str = "auto") -> Pool:
    assert facts is not None
    settings = Settings(Load(8192, 256, length), terms_of("0.32"), 0.9, dtype)
    return pools(facts, shape, settings)[0]


def test_gpt_oss_shares_one_pool_between_windows_and_full_layers() -> None:
    pool = pool_of(model("openai--gpt-oss-20b"))
    assert pool.block_bytes == 393216
    assert pool.blocks(50 * GIB) == 136533
    assert pool.concurrency(50 * GIB, 131072) == pytest.approx(14.80, abs=0.005)
    assert pool.tokens(50 * GIB, 131072) == 1939908


def test_gemma_3_has_seven_groups() -> None:
    pool = pool_of(model("google--gemma-3-27b-it"))
    assert sorted(len(group.layers) for group in pool.groups) == [8, 8, 9, 9, 9, 9, 10]
    assert pool.block_bytes == 1310720
    assert pool.concurrency(40 * GIB, 131072) == pytest.approx(2.23, abs=0.005)


def test_gemma_2_alternates() -> None:
    pool = pool_of(model("google--gemma-2-9b"))
    assert pool.concurrency(20 * GIB, 8192) == pytest.approx(7.61, abs=0.01)


def test_a_request_that_does_not_fit_is_told_how_long_it_may_be() -> None:
    pool = pool_of(model("meta-llama--Meta-Llama-3.1-8B"))
    assert pool.needed(131072) > GIB
    assert pool.longest(GIB, 131072) == 8176
    assert pool.longest(0, 131072) == 0


def test_latent_cache_is_not_divided() -> None:
    facts = model("deepseek-ai--DeepSeek-V3")
    alone, eight = pool_of(facts), pool_of(facts, Shape(8))
    assert alone.block_bytes == eight.block_bytes == 70272 * 64


def test_hybrids_raise_the_block_until_a_page_holds_a_state() -> None:
    pool = pool_of(model("Qwen--Qwen3-Next-80B-A3B-Instruct"))
    attention = next(group.spec for group in pool.groups if group.spec.kind is Kind.FULL)
    assert attention.block == 544


BYTES_PER_TOKEN = {
    "meta-llama/Llama-3.1-8B-Instruct": 131072,
    "meta-llama/Llama-3.1-405B-Instruct": 516096,
    "meta-llama/Llama-2-7b-chat-hf": 524288,
    "Qwen/Qwen2.5-7B-Instruct": 57344,
    "Qwen/Qwen3-235B-A22B": 192512,
    "microsoft/phi-4": 204800,
}


@pytest.mark.parametrize(("name", "size"), BYTES_PER_TOKEN.items())
def test_bytes_of_a_token(name: str, size: int) -> None:
    pool = pool_of(catalogue.lookup(name))
    assert pool.block_bytes == size * 16


def test_an_fp8_cache_is_half() -> None:
    facts = model("meta-llama--Meta-Llama-3.1-8B")
    assert pool_of(facts, dtype="fp8").block_bytes * 2 == pool_of(facts).block_bytes


def test_checkpoints_that_ask_for_an_fp8_cache_get_one() -> None:
    facts = model("nvidia--Llama-3.1-70B-Instruct-FP8")
    assert pool_of(facts).block_bytes == 327680 // 2 * 16


EXACT = [one for one in points() if one.started and "available_kv_gib_exact" in one.measured]


@pytest.mark.parametrize("one", EXACT, ids=lambda one: one.name)
def test_blocks_and_tokens_are_exact_when_the_bytes_are_given(one: Point) -> None:
    assert one.kv_bytes is not None
    pool = one.stage.pool
    assert abs(pool.blocks(one.kv_bytes) - one.measured["num_gpu_blocks"]) <= 1  # bytes are printed to four digits
    blocks = one.measured["num_gpu_blocks"]
    length = one.measured["args"]["max_model_len"]
    assert pool.tokens(blocks * pool.block_bytes, length) == one.measured["kv_tokens"]


@pytest.mark.parametrize(
    ("config", "spans"),
    [
        ({"sliding_window": 4096}, [4096] * 4),
        ({"sliding_window": 4096, "use_sliding_window": False}, [0] * 4),
        ({"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 2}, [4096, 0, 4096, 0]),
        ({"sliding_window": 4096, "sliding_window_pattern": "LLG", "num_hidden_layers": 4}, [4096, 4096, 0, 0]),
        ({"sliding_window": 4096, "model_type": "gemma2"}, [4096, 0, 4096, 0]),
        (
            {"sliding_window": 4096, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
            [0, 0, 4096, 4096],
        ),
    ],
)
def test_windows_by_layer(config: dict[str, object], spans: list[int]) -> None:
    assert [local_span(Reader(config), index)[0] for index in range(4)] == spans


def test_llama_4_has_chunks_but_for_every_fourth_layer() -> None:
    text = Reader({"model_type": "llama4_text", "attention_chunk_size": 512})
    assert [local_span(text, index) for index in range(4)] == [(0, 512), (0, 512), (0, 512), (0, 0)]
