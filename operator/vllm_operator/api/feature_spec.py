"""What vLLM can do beyond plain serving, each as an object of `spec.engine`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vllm_operator.api.base import ApiObject, Rule
from vllm_operator.api.fields import Between, HubAddress, LabelName, ParserName, Quantity

# Methods by whether they bring a second model: vllm.config.speculative of vLLM 0.32.
DRAFTLESS_METHODS = ("ngram", "suffix", "mtp")
DRAFT_METHODS = ("draft_model", "eagle", "eagle3", "medusa", "mlp_speculator")


class Speculative(ApiObject):
    """Speculative decoding: propose tokens cheaply, verify them in one step of the model."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.method in ['draft_model', 'eagle', 'eagle3', 'medusa', 'mlp_speculator']) == has(self.model)",
            "model names the draft model of the methods draft_model, eagle, eagle3, medusa and mlp_speculator; "
            "ngram, suffix and mtp have none",
            lambda s: (s.method in DRAFT_METHODS) == (s.model is not None),
        ),
        Rule(
            "self.method == 'ngram' || (!has(self.promptLookupMax) && !has(self.promptLookupMin))",
            "promptLookupMax and promptLookupMin belong to the method ngram",
            lambda s: s.method == "ngram" or (s.prompt_lookup_max is None and s.prompt_lookup_min is None),
        ),
        Rule(
            "!has(self.promptLookupMax) || !has(self.promptLookupMin) || self.promptLookupMin <= self.promptLookupMax",
            "promptLookupMin must not be above promptLookupMax",
            lambda s: (
                s.prompt_lookup_max is None or s.prompt_lookup_min is None or s.prompt_lookup_min <= s.prompt_lookup_max
            ),
        ),
    )

    method: Literal["ngram", "suffix", "mtp", "draft_model", "eagle", "eagle3", "medusa", "mlp_speculator"] = "ngram"
    """How tokens are proposed."""

    tokens: Annotated[int, Between(1, 32)] = 4
    """How many tokens are proposed per step."""

    model: HubAddress | None = None
    """The draft model, as `hf://organisation/name`; it is downloaded with a model from hf://."""

    prompt_lookup_max: Annotated[int, Between(1, 64)] | None = None
    """Longest run of tokens that ngram looks up in the prompt; vLLM's own default is 5, or promptLookupMin."""

    prompt_lookup_min: Annotated[int, Between(1, 64)] | None = None
    """Shortest run of tokens that ngram looks up in the prompt; vLLM's own default is 5, or promptLookupMax."""


class LoRAAdapter(ApiObject):
    """One static LoRA adapter."""

    name: LabelName
    """Name that clients ask for as `model`."""

    source: HubAddress
    """Where it comes from, as `hf://organisation/name`; it is downloaded with a model from hf://."""


# Choices of --max-lora-rank in vLLM 0.32.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class LoRA(ApiObject):
    """LoRA adapters that are served beside the model."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.maxRank in [1, 8, 16, 32, 64, 128, 256, 320, 512]",
            "maxRank must be one that vLLM knows: 1, 8, 16, 32, 64, 128, 256, 320 or 512",
            lambda s: s.max_rank in LORA_RANKS,
        ),
        Rule(
            "self.adapters.all(a, self.adapters.exists_one(b, b.name == a.name))",
            "every adapter needs a name of its own",
            lambda s: len({a.name for a in s.adapters}) == len(s.adapters),
        ),
    )

    adapters: Annotated[tuple[LoRAAdapter, ...], Field(min_length=1, max_length=32)]
    """The adapters."""

    max_rank: Annotated[int, Between(1, 512)] = 16
    """Highest rank among them."""


class KVOffload(ApiObject):
    """KV cache that does not fit on the GPUs any more is kept in the memory of the node."""

    size: Quantity
    """How much, for all GPUs of a replica together (`--kv-offloading-size`); it is added to the pod's memory."""


class StructuredOutputs(ApiObject):
    """Guided decoding (JSON schema, regular expression, grammar, choice)."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.disableAnyWhitespace || self.backend in ['xgrammar', 'guidance']",
            "disableAnyWhitespace needs the backend xgrammar or guidance: set backend as well",
            lambda s: not s.disable_any_whitespace or s.backend in ("xgrammar", "guidance"),
        ),
    )

    backend: Literal["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"] = "auto"
    """Library that compiles the grammar."""

    disable_any_whitespace: bool = False
    """Whether JSON is kept compact, so that no answer fills up with blanks and line breaks."""


class Parser(ApiObject):
    """A parser of vLLM, by its name."""

    parser: ParserName
    """Name of the parser."""


class ToolCalling(Parser):
    """Automatic tool choice (`--enable-auto-tool-choice`) with the parser that fits the model, such as hermes."""


class Reasoning(Parser):
    """Separation of reasoning from the answer, with the parser that fits the model, such as qwen3."""
