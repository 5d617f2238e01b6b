"""Whether the quantisation that is asked for goes with the checkpoint: vLLM stops before it loads where it does not.

Source: config/model.py _verify_quantization, model_loader/weight_utils.py get_quant_config, layers/quantization/*.py
override_quantization_method; every pair of method and checkpoint was put to vLLM 0.32.0.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.types import Reason, ReasonKind, SizingRequest
from vllm_operator.sizing.weights import Shape, weights

CODE = "QuantizationInvalid"

AWQ = frozenset({"awq", "auto_awq", "awq_marlin"})
GPTQ = frozenset({"gptq", "auto_gptq", "gptq_marlin"})
MODELOPT = frozenset({"modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"})

TAKEN: Mapping[str, frozenset[str]] = {
    "awq": AWQ | {"moe_wna16", "humming"},
    "gptq": GPTQ | {"moe_wna16", "humming"},
    "fp8": frozenset({"fp8", "deepseek_v4_fp8", "humming"}),
    "mxfp4": frozenset({"mxfp4", "gpt_oss_mxfp4", "humming"}),
    "compressed-tensors": frozenset({"compressed-tensors", "humming"}),
}
"""By method of a checkpoint: what may be asked for. A checkpoint of ModelOpt goes before whatever is asked."""

OVERRULING = frozenset({"GptOssForCausalLM", "DeepseekV4ForCausalLM"})
"""Architectures whose checkpoints go before whatever is asked."""

OF_CHECKPOINTS = AWQ | GPTQ | MODELOPT | {"compressed-tensors", "moe_wna16", "quark", "torchao", "inc"}
"""Methods that take their settings from the checkpoint, and quantise nothing while loading."""

UNQUANTISED = 0.75
"""Share of 16-bit weights above which files hold nothing quantised: with half of it in 8 bit, that much is left."""


def agreement_reasons(model: ModelFacts, request: SizingRequest) -> list[Reason]:
    """Why vLLM would not load the checkpoint with the method that is asked for."""
    asked, own = request.quantization, model.quantization
    if asked is None or model.problem or request.overridden:
        return []
    if own is None:
        return [_reason(_needs_checkpoint(model, asked))] if asked in OF_CHECKPOINTS and _is_plain(model) else []
    if asked in TAKEN.get(own, {asked}) or model.architecture in OVERRULING:
        return []
    said = (
        f"Quantization method specified in the model config ({own}) does not match the quantization method specified "
        f"in the `quantization` argument ({asked}). Leave model.quantization unset: {model.name} is quantised already."
    )
    return [_reason(said)]


def _reason(said: str) -> Reason:
    return Reason(CODE, said, ReasonKind.VALIDITY)


def _needs_checkpoint(model: ModelFacts, asked: str) -> str:
    return (
        f"model.quantization {asked} loads a checkpoint that is quantised with it, and the config of {model.name} "
        f"names no quantisation: vLLM would find no settings for {asked}. Name a quantised checkpoint, or quantise "
        "this one while loading with model.quantization fp8."
    )


def _is_plain(model: ModelFacts) -> bool:
    """Whether the files hold nothing quantised: a file beside config.json, which nobody read, may have settings."""
    if model.total_bytes is not None:
        return False
    plain = weights(model, Shape())[0].parameters
    return model.file_bytes is None or model.file_bytes > UNQUANTISED * plain
