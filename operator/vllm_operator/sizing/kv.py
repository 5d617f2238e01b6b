"""The KV cache: bytes of a block, blocks of a request, tokens and requests that a given amount of memory holds.

Source: vllm/v1/kv_cache_interface.py (one class a spec: page_size_bytes, max_memory_usage_bytes) and
vllm/v1/core/kv_cache_utils.py (get_kv_cache_groups, unify_kv_cache_spec_page_size, get_kv_cache_config_from_groups,
get_max_concurrency_for_kv_cache_config, check_enough_kv_cache_memory).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from vllm_operator.sizing.layers import AttentionCache, Cache, LatentCache, StateCache

BLOCK = 16
LATENT_BLOCK = 64  # FLASHMLA and FLASHINFER_MLA take 64 (or 32) tokens a block
ELEMENT_BYTES = {
    "auto": 2.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
}
FP8_DS_MLA_BYTES = 656  # a token in the fp8_ds_mla layout of sparse latent attention


class Kind(StrEnum):
    """Which blocks a request of some length needs."""

    FULL = "full"
    WINDOW = "sliding window"
    CHUNK = "chunked"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Spec:
    """Cache of one layer on one GPU: `page` bytes a block of `block` tokens."""

    kind: Kind
    page: int
    block: int
    span: int = 0  # window or chunk

    def blocks(self, length: int, in_flight: int, *, states: int = 1) -> int:
        """Blocks that one request of `length` tokens needs, `in_flight` tokens scheduled and not settled."""
        match self.kind:
            case Kind.FULL:
                return -(-length // self.block)
            case Kind.WINDOW:
                return -(-min(self.span - 1 + in_flight, length) // self.block) + 1
            case Kind.CHUNK:
                return -(-min(self.span + in_flight, length) // self.block)
            case _:
                return states


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share block tables."""

    spec: Spec
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """The block pool of one GPU."""

    groups: tuple[Group, ...]
    block_bytes: int  # of all layers of the widest group on this stage
    in_flight: int
    states: int = 1

    def blocks_per_request(self, length: int) -> int:
        """Blocks of all groups for one request of `length` tokens."""
        return sum(group.spec.blocks(length, self.in_flight, states=self.states) for group in self.groups)

    def blocks(self, available: float) -> int:
        """Blocks that `available` bytes hold."""
        return max(0, int(available // self.block_bytes)) if self.block_bytes else 0

    def needed(self, length: int) -> int:
        """Bytes for one request of `length` tokens, the null block included."""
        return self.block_bytes * (self.blocks_per_request(length) + 1)

    def concurrency(self, available: float, length: int) -> float:
        """Requests of `length` tokens that `available` bytes hold at once."""
        each = self.blocks_per_request(length)
        return self.blocks(available) / each if each else 0.0

    def tokens(self, available: float, length: int) -> int:
        """Tokens as vLLM counts them in its log: concurrency times length."""
        return int(self.concurrency(available, length) * length)

    def longest(self, available: float, limit: int) -> int:
        """The longest request that fits, at most `limit`; 0 when not even one token does."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.needed(middle) <= available:
                low = middle
            else:
                high = middle - 1
        return low

    @property
    def has_states(self) -> bool:
        """Whether any group holds recurrent states (one block a sequence)."""
        return any(group.spec.kind is Kind.STATE for group in self.groups)


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """What decides the layout of the cache besides the model."""

    tensor: int
    element_bytes: float
    speculative_tokens: int = 0
    block: int = BLOCK  # tokens a block of layers that keep keys and values


def spec_of(cache: Cache, request: CacheRequest) -> Spec:
    """Cache of one layer on one GPU."""
    match cache:
        case AttentionCache():
            heads = max(1, cache.kv_heads // request.tensor)
            page = int(request.block * heads * (cache.key_size + cache.value_size) * request.element_bytes)
            if cache.window:
                return Spec(Kind.WINDOW, page, request.block, cache.window)
            if cache.chunk:
                return Spec(Kind.CHUNK, page, request.block, cache.chunk)
            return Spec(Kind.FULL, page, request.block)
        case LatentCache():
            sparse_fp8 = cache.index_bytes and request.element_bytes == 1
            row = FP8_DS_MLA_BYTES if sparse_fp8 else cache.width * request.element_bytes
            return Spec(Kind.FULL, int(LATENT_BLOCK * (row + cache.index_bytes)), LATENT_BLOCK)
        case StateCache():
            return Spec(Kind.STATE, _state_bytes(cache, request), 0)


def _state_bytes(cache: StateCache, request: CacheRequest) -> int:
    rows = cache.conv_elements * cache.conv_bytes
    if request.speculative_tokens and cache.kernel > 1:
        rows = rows * (cache.kernel - 1 + request.speculative_tokens) // (cache.kernel - 1)
    return (rows + cache.state_elements * cache.state_bytes) // request.tensor


def aligned(specs: list[Spec]) -> list[Spec]:
    """The same specs with one page size (unify_kv_cache_spec_page_size; models/config.py for states).

    Where a model keeps states, attention takes so many tokens a block that its page holds a state; else smaller pages
    take more tokens a block, or are padded.
    """
    pages = {spec.page for spec in specs}
    attention = [spec for spec in specs if spec.kind is not Kind.STATE]
    states = [spec for spec in specs if spec.kind is Kind.STATE]
    if states and attention:
        state = max(spec.page for spec in states)
        widest = max(attention, key=lambda spec: spec.page)
        per_token = widest.page // widest.block
        block = max(widest.block, -(-state // (per_token * BLOCK)) * BLOCK)
        page = block * per_token
        return [replace(spec, page=page, block=block if spec.kind is not Kind.STATE else 0) for spec in specs]
    largest = max(pages, default=0)
    return [_stretched(spec, largest) for spec in specs]


def _stretched(spec: Spec, page: int) -> Spec:
    if spec.page and page % spec.page == 0:
        return replace(spec, page=page, block=spec.block * (page // spec.page))
    return replace(spec, page=page)


def grouped(specs: list[tuple[int, Spec]]) -> tuple[Group, ...]:
    """Layers (index, spec) dealt out to groups of equal size (_get_kv_cache_groups_uniform_page_size)."""
    if len({(spec.kind, spec.block, spec.span) for _, spec in specs}) <= 1 and all(
        spec.kind is Kind.FULL for _, spec in specs
    ):
        return (Group(specs[0][1], tuple(index for index, _ in specs)),) if specs else ()
    alike = aligned([spec for _, spec in specs])
    buckets: dict[Spec, list[int]] = {}
    for (index, _), spec in zip(specs, alike, strict=True):
        buckets.setdefault(spec, []).append(index)
    least = min(len(members) for members in buckets.values())
    most = max(len(members) for members in buckets.values())
    size = most if most < least * 1.5 else least
    return tuple(
        Group(spec, tuple(members[start :: -(-len(members) // size)]))
        for spec, members in buckets.items()
        for start in range(-(-len(members) // size))
    )


def pool(caches: list[tuple[int, Cache]], members: range, request: CacheRequest, in_flight: int, states: int) -> Pool:
    """The pool of the GPU that holds the layers `members`; groups are those of the whole model."""
    kinds = {id(cache): cache for _, cache in caches}
    by_cache = {key: spec_of(cache, request) for key, cache in kinds.items()}
    specs = [(index, by_cache[id(cache)]) for index, cache in caches]
    groups = grouped(specs)
    if len(groups) == 1:
        own = dict(specs)
        block_bytes = sum(own[index].page for index in groups[0].layers if index in members)
    else:
        block_bytes = max(
            (group.spec.page * sum(index in members for index in group.layers) for group in groups), default=0
        )
    return Pool(groups, block_bytes, in_flight, states)
