"""`spec.engine`: how vLLM itself is started."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vllm_operator.api.base import ApiObject, Rule
from vllm_operator.api.feature_spec import KVOffload, LoRA, Reasoning, Speculative, StructuredOutputs, ToolCalling
from vllm_operator.api.fields import (
    Between,
    Bool,
    EnvName,
    ObjectName,
    Passthrough,
    Quantity,
    SecretKey,
    Text,
    has_version,
)


class Profile(StrEnum):
    """A named set of engine settings; it fills only what the spec leaves unset."""

    BALANCED = "Balanced"
    THROUGHPUT = "Throughput"
    LATENCY = "Latency"
    LONG_CONTEXT = "LongContext"


class KeySelector(ApiObject):
    """One key of a Secret or ConfigMap in the resource's namespace."""

    name: ObjectName
    """Name of the object."""

    key: SecretKey
    """Key inside it."""

    optional: Bool = False
    """Whether the pod may start without it."""


class EnvSource(ApiObject):
    """Where the value of an environment variable comes from."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1",
            "name exactly one of secretKeyRef, configMapKeyRef and fieldRef",
            lambda s: [s.secret_key_ref, s.config_map_key_ref, s.field_ref].count(None) == 2,  # noqa: PLR2004
        ),
    )

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""

    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""

    field_ref: Passthrough | None = None
    """A field of the pod, as in `env[].valueFrom.fieldRef` of a container."""


RESERVED_ENV = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HOME",
    "TMPDIR",
    "VLLM_API_KEY",
    "VLLM_CACHE_ROOT",
    "VLLM_CONFIG_ROOT",
    "VLLM_PORT",
)
_RESERVED_CEL = ", ".join(f"'{name}'" for name in RESERVED_ENV)


class EnvVar(ApiObject):
    """One environment variable of the server, and of the preload Job (so that a hub mirror or a proxy serves both)."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in [{_RESERVED_CEL}])",
            "this variable is set by the operator: use model.tokenSecretRef for HF_TOKEN, auth.apiKeySecretRef for "
            "VLLM_API_KEY, and leave HF_HOME, HF_HUB_OFFLINE, HOME, TMPDIR, VLLM_CACHE_ROOT, VLLM_CONFIG_ROOT and "
            "VLLM_PORT alone",
            lambda s: s.name not in RESERVED_ENV,
        ),
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "name value or valueFrom, not both",
            lambda s: s.value is None or s.value_from is None,
        ),
    )

    name: EnvName
    """Name of the variable."""

    value: Annotated[str, Field(max_length=4096)] | None = None
    """The value itself; empty when neither this nor valueFrom is set."""

    value_from: EnvSource | None = None
    """Where its value comes from instead."""


class Engine(ApiObject):
    """How vLLM itself is started."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.image == '' || self.image.matches('@sha256:[0-9a-f]{64}$') || "
            "(self.image.matches(':[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$') && !self.image.endsWith(':latest'))",
            "image must end in a version tag or a digest: latest, or no tag, changes under a running service",
            lambda s: s.image == "" or has_version(s.image),
        ),
        Rule(
            "self.command.size() == 0 || self.image != ''",
            "command starts your own server: name the image that contains it",
            lambda s: not s.command or s.image != "",
        ),
        Rule(
            "self.command.size() == 0 || !(has(self.speculative) || has(self.lora) || has(self.toolCalling) || "
            "has(self.reasoning) || has(self.structuredOutputs) || has(self.kvCacheDtype) || "
            "has(self.kvCacheMemory) || has(self.kvOffload) || has(self.maxQueuedRequests) || "
            "has(self.maxQueuedTokens) || has(self.prefixCaching) || self.enforceEager)",
            "command starts your own server, to which the operator adds no vLLM flags: leave speculative, lora, "
            "toolCalling, reasoning, structuredOutputs, kvCacheDtype, kvCacheMemory, kvOffload, maxQueuedRequests, "
            "maxQueuedTokens, prefixCaching and enforceEager unset",
            lambda s: not s.command or not s.has_vllm_features,
        ),
        Rule(
            "!has(self.maxSequences) || !has(self.maxBatchedTokens) || self.maxBatchedTokens >= self.maxSequences",
            "maxBatchedTokens must be at least maxSequences: vLLM refuses to start otherwise",
            lambda s: (
                s.max_sequences is None or s.max_batched_tokens is None or s.max_batched_tokens >= s.max_sequences
            ),
        ),
        Rule(
            "!has(self.lora) || !has(self.speculative) || !has(self.maxBatchedTokens) || self.maxBatchedTokens >= "
            "(has(self.maxSequences) ? self.maxSequences : 1) * (self.speculative.tokens + 1)",
            "with lora, maxBatchedTokens must be at least maxSequences * (speculative.tokens + 1): vLLM refuses to "
            "start otherwise",
            lambda s: (
                s.lora is None
                or s.max_batched_tokens is None
                or s.max_batched_tokens >= (s.max_sequences or 1) * s.tokens_per_sequence
            ),
        ),
        Rule(
            "self.env.all(a, self.env.exists_one(b, b.name == a.name))",
            "every entry of env needs a name of its own",
            lambda s: len({e.name for e in s.env}) == len(s.env),
        ),
    )

    image: Annotated[str, Field(max_length=512)] = ""
    """Container image with vLLM; default from the operator's configuration."""

    profile: Profile = Profile.BALANCED
    """Named settings that fill only what is unset here: Balanced, Throughput, Latency or LongContext."""

    max_sequences: Annotated[int, Between(1, 65536)] | None = None
    """Requests in one batch (`--max-num-seqs`); default from the profile."""

    max_batched_tokens: Annotated[int, Between(1, 1_048_576)] | None = None
    """Tokens in one batch (`--max-num-batched-tokens`); default from the profile."""

    kv_cache_dtype: Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"] | None = None
    """Type of the KV cache (`--kv-cache-dtype`); default from the profile."""

    kv_cache_memory: Quantity | None = None
    """Size of the KV cache of one GPU (`--kv-cache-memory-bytes`) instead of what gpu.memoryUtilization leaves; on the
    CPU backend the size of the cache, 4Gi by default."""

    kv_offload: KVOffload | None = None
    """Keep KV cache that the GPUs have no room for in the memory of the node."""

    max_queued_requests: Annotated[int, Between(0, 1_000_000)] | None = None
    """Requests that may wait in one replica (`--max-num-queued-reqs`); further ones get HTTP 503. Unset: no limit."""

    max_queued_tokens: Annotated[int, Between(0, 1_000_000_000)] | None = None
    """Tokens of prompts that may wait in one replica (`--max-num-queued-tokens`); further ones get HTTP 503."""

    prefix_caching: Bool | None = None
    """Reuse of the KV cache of common prefixes; vLLM's own default is on."""

    enforce_eager: Bool = False
    """Run without CUDA graphs: slower, smaller, starts faster."""

    speculative: Speculative | None = None
    """Speculative decoding."""

    lora: LoRA | None = None
    """LoRA adapters."""

    structured_outputs: StructuredOutputs | None = None
    """Guided decoding."""

    tool_calling: ToolCalling | None = None
    """Automatic tool choice."""

    reasoning: Reasoning | None = None
    """Reasoning parser."""

    extra_args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=64)] = ()
    """Further flags of `vllm serve`; flags that the operator owns are refused."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = ()
    """Further environment variables of the server and the preload Job (`HF_ENDPOINT`, proxies, ...)."""

    command: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    """Your own server in your own image: replaces `vllm serve`, extraArgs become its arguments."""

    @property
    def has_vllm_features(self) -> bool:
        """Whether a field is set that only `vllm serve` understands."""
        features = (self.speculative, self.lora, self.tool_calling, self.reasoning, self.structured_outputs)
        memory = (self.kv_cache_dtype, self.kv_cache_memory, self.kv_offload, self.prefix_caching)
        limits = (self.max_queued_requests, self.max_queued_tokens)
        return self.enforce_eager or any(value is not None for value in (*features, *memory, *limits))

    @property
    def tokens_per_sequence(self) -> int:
        """Tokens of one request in one step that the batch must have room for.

        Only with adapters does vLLM insist on room for what is proposed (EngineArgs.create_engine_config in
        vllm/engine/arg_utils.py of vLLM 0.32).
        """
        return self.speculative.tokens + 1 if self.lora and self.speculative else 1
