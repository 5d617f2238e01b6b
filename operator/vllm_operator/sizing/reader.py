"""Typed access to a Hugging Face `config.json`, whatever it spells a size like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
LARGEST = 2**40
"""No size in a model's config is larger; what is, is a mistake."""


class ModelConfigError(ValueError):
    """A config that cannot be sized; the text names the key and what is wrong with it."""


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
    },
    "opt": {"tie_word_embeddings": True, "ffn_dim": 3072},
    "falcon": {"tie_word_embeddings": True, "max_position_embeddings": 2048},
}
"""Sizes that transformers' config classes have where a config.json of the model type is silent."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads sizes from a config. Multimodal models nest the language model's sizes; see `text`."""

    config: Mapping[str, Any]

    def find(self, *keys: str) -> object:
        """The first of the keys that is set to something else than null."""
        for key in keys:
            value: object = self.config.get(key)
            if value is not None:
                return value
        return None

    def optional(self, *keys: str) -> int | None:
        """A whole number, or None where no key is set. Raises ModelConfigError for anything else."""
        value = self.find(*keys)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # some configs give one size a layer
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < LARGEST
            or value != int(value)
        ):
            raise ModelConfigError(f"{keys[0]} is {value!r}: a whole number of at least 0 was expected")
        return int(value)

    def integer(self, *keys: str, default: int | None = None) -> int:
        """A whole number >= 0. Raises ModelConfigError when no key is set and there is no default."""
        value = self.optional(*keys)
        if value is not None:
            return value
        if default is None:
            raise ModelConfigError(f"{keys[0]} is missing")
        return default

    def positive(self, *keys: str, default: int | None = None) -> int:
        """A whole number >= 1."""
        value = self.integer(*keys, default=default)
        if value < 1:
            raise ModelConfigError(f"{keys[0]} is {value}: at least 1 was expected")
        return value

    def number(self, *keys: str, default: float) -> float:
        """Any number."""
        value = self.find(*keys)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    def flag(self, *keys: str, default: bool = False) -> bool:
        """A truth value; anything that is not one counts as the default."""
        value = self.find(*keys)
        return value if isinstance(value, bool) else default

    def words(self, *keys: str) -> tuple[str, ...]:
        """A list of strings, empty where the key is not set."""
        value = self.find(*keys)
        if isinstance(value, str):
            return (value,)
        return tuple(str(item) for item in value) if isinstance(value, Sequence) else ()

    def word(self, *keys: str, default: str = "") -> str:
        """A string."""
        value = self.find(*keys)
        return value if isinstance(value, str) else default

    def section(self, *keys: str) -> Reader | None:
        """A nested object, or None."""
        value = self.find(*keys)
        return Reader(value) if isinstance(value, Mapping) else None

    def text(self) -> Reader:
        """The language model's part: the nested section over the outer keys where there is one."""
        for key in NESTED:
            inner = self.config.get(key)
            if isinstance(inner, Mapping):
                return Reader({**self.config, **inner}).text_of_thinker()
        return self

    def with_defaults(self) -> Reader:
        """The same with the defaults of the model type beneath."""
        defaults = DEFAULTS.get(self.word("model_type"), {})
        return Reader({**defaults, **self.config}) if defaults else self

    def text_of_thinker(self) -> Reader:
        """Omni models nest twice (`thinker_config.text_config`)."""
        inner = self.config.get("text_config")
        nested_in_thinker = "thinker_config" in self.config and isinstance(inner, Mapping)
        return Reader({**self.config, **inner}) if nested_in_thinker and isinstance(inner, Mapping) else self
