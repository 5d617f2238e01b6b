"""`spec.model`: which model, and how it is loaded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vllm_operator.api.base import ApiObject, Rule
from vllm_operator.api.fields import (
    Bool,
    ModelLength,
    ObjectName,
    Passthrough,
    Revision,
    SecretKey,
    ServedName,
    Source,
)

# --quantization values of vLLM 0.32 (vllm/model_executor/layers/quantization/__init__.py), deprecated ones left out.
QUANTIZATIONS = (
    "awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "fp8", "fp8_per_tensor", "fp8_per_block",
    "fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8", "online", "compressed-tensors",
    "modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "mxfp4", "gpt_oss_mxfp4", "deepseek_v4_fp8",
    "moe_wna16", "experts_int8", "quark", "torchao", "inc", "humming",
)  # fmt: skip
REMOVED_QUANTIZATIONS = ("squeezellm", "aqlm", "deepspeedfp", "marlin", "tpu_int8", "bitsandbytes", "gguf")


def _cel_list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


class TokenRef(ApiObject):
    """The Secret that holds a Hugging Face token."""

    name: ObjectName
    """Name of the Secret."""

    key: SecretKey = "token"
    """Key inside the Secret."""


class Files(ApiObject):
    """Which files of the repository are downloaded, as glob patterns."""

    include: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=32)] = ()
    """Only files that match one of these; all of them when empty."""

    exclude: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=32)] = (
        "original/*",
    )
    """Files that match one of these are left out."""


class Model(ApiObject):
    """The model and how it is loaded."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.quantization) || !(self.quantization in {_cel_list(REMOVED_QUANTIZATIONS)})",
            "this quantization is not part of vLLM any more: use a checkpoint in AWQ, GPTQ, FP8 or compressed-tensors "
            "format and leave quantization unset",
            lambda s: s.quantization not in REMOVED_QUANTIZATIONS,
        ),
        Rule(
            f"!has(self.quantization) || self.quantization in {_cel_list(QUANTIZATIONS + REMOVED_QUANTIZATIONS)}",
            f"quantization must be one that vLLM knows ({', '.join(QUANTIZATIONS)}); leave it unset for a checkpoint "
            "that is quantised already",
            lambda s: s.quantization is None or s.quantization in QUANTIZATIONS + REMOVED_QUANTIZATIONS,
        ),
        Rule(
            "!self.source.startsWith('oci://') || self.source.matches('@sha256:[0-9a-f]{64}$')",
            "an oci:// source needs a digest (oci://registry/repository@sha256:...): a tag can change under running "
            "replicas",
            lambda s: not s.source.startswith("oci://") or "@sha256:" in s.source,
        ),
        Rule(
            "!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            "tokenSecretRef is a Hugging Face token: it goes with an hf:// source only",
            lambda s: s.token_secret_ref is None or s.source.startswith("hf://"),
        ),
        Rule(
            "self.source.startsWith('hf://') || self.revision == 'main'",
            "revision is a branch, tag or commit of an hf:// source: leave it unset for any other",
            lambda s: s.source.startswith("hf://") or s.revision == "main",
        ),
        Rule(
            "self.source.startsWith('hf://') || "
            "(self.files.include.size() == 0 && self.files.exclude == ['original/*'])",
            "files says what is downloaded from an hf:// source: leave it unset for any other",
            lambda s: s.source.startswith("hf://") or s.files == Files(),
        ),
        Rule(
            "self.servedNames.all(a, self.servedNames.exists_one(b, b == a))",
            "servedNames must differ from each other",
            lambda s: len(set(s.served_names)) == len(s.served_names),
        ),
    )

    source: Source
    """Where it comes from: `hf://organisation/name`, `pvc://claim/path`, `s3://bucket/prefix` or `oci://repository@sha256:...`."""

    revision: Revision = "main"
    """Branch, tag or commit of an hf:// source."""

    served_names: Annotated[tuple[ServedName, ...], Field(max_length=8)] = ()
    """Names that clients may ask for; the first is the label of the metrics. Default: the repository or path."""

    token_secret_ref: TokenRef | None = None
    """Secret with the Hugging Face token for gated or private repositories."""

    max_length: ModelLength = "auto"
    """Longest context in tokens, or auto: the longest that fits, up to the model's own limit."""

    quantization: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """On-the-fly quantisation; a checkpoint that is quantised already says so itself."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and activations."""

    trust_remote_code: Bool = False
    """Run Python code that comes with the model. Read it first."""

    files: Files = Files()
    """Which files of the repository are downloaded."""

    facts: Passthrough = Field(default_factory=dict)
    """Architecture numbers by hand, spelled as in config.json, or `parameters` in billions; for models that nobody can
    inspect."""
