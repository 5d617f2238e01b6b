"""A model of which only the number of parameters is known: the requirement table by parameter count.

Weights are parameters times bytes, the KV cache is that of a well-known model of the size; the verdict says
`Estimated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.gpus import data_text, parse_yaml
from vllm_operator.sizing.types import ParameterCount, Reason, ReasonKind, Sizing

SIXTEEN_BIT = 2.0
GB_PER_GIB = 2**30 / 1e9


@cache
def classes() -> tuple[Mapping[str, Any], ...]:
    """Rows of the requirement table, smallest model first."""
    return tuple(parse_yaml(data_text("requirements.yaml"))["classes"])


def row_for(billions: float) -> Mapping[str, Any]:
    """The row of a model of that many parameters: the next larger one.

    Source: a tenth over counts as the same), or the largest.
    """
    return next((row for row in classes() if billions <= row["billions"] * 1.1), classes()[-1])


def weight_bytes(model: ParameterCount) -> int:
    """Bytes of all weights. Embeddings and output layer stay 16 bit in a quantised checkpoint."""
    share = row_for(model.billions)["shareKept16Bit"] if model.bytes_per_parameter < SIXTEEN_BIT else 0.0
    return round(model.billions * 1e9 * (share * SIXTEEN_BIT + (1 - share) * model.bytes_per_parameter))


def facts_of(model: ParameterCount) -> ModelFacts:
    """Facts that stand in for the model: the row's shape, the count's bytes. The length limit is not known."""
    row = row_for(model.billions)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": row["hiddenSize"],
        "num_hidden_layers": row["layers"],
        "num_attention_heads": row["attentionHeads"],
        "num_key_value_heads": row["keyValueHeads"],
        "head_dim": row["headSize"],
        "intermediate_size": row["intermediateSize"],
        "vocab_size": row["vocabularySize"],
    }
    facts = facts_from_config(config, name=model.name or f"{model.billions:g}B")
    return replace(facts, max_length=0, known=False, total_bytes=weight_bytes(model))


def arithmetic(model: ParameterCount) -> str:
    """`405 billion parameters x 2 bytes = 810 GB`."""
    total = weight_bytes(model) / 1e9
    return f"{model.billions:g} billion parameters x {model.bytes_per_parameter:g} bytes = {total:,.0f} GB"


def refusal_reason(model: ParameterCount, answer: Sizing) -> tuple[Reason, ...]:
    """The reasons of a refusal, the table's arithmetic first where weights alone are too much."""
    if answer.gpu is None or not any(reason.code == "WeightsExceedMemory" for reason in answer.reasons):
        return answer.reasons
    have = f"{answer.gpus} x {answer.gpu.name} have {answer.gpu.memory_gib * answer.gpus * GB_PER_GIB:,.0f} GB"
    said = f"{arithmetic(model)} of weights; {have}. {answer.reasons[0].message}"
    return (Reason("WeightsExceedMemory", said, ReasonKind.MEMORY), *answer.reasons[1:])
