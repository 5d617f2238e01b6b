"""The data files of sizing: every row is complete, typed, sourced and consistent with itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import yaml

Row = Mapping[str, Any]

MODEL_KEYS = {"source", "gated", "files", "config"}
CONFIG_KEY_NAMES = """
    alibi architectures attention_bias attention_chunk_size attention_head_dim attention_k_eq_v attn_output_gate bias
    block_configs chunk_size conv_kernel decoder_sparse_step do_layer_norm_before dtype enable_moe_block expand ffn_dim
    final_logit_softcapping first_k_dense_replace full_attention_interval global_head_dim head_dim hidden_size
    hidden_size_per_layer_input hybrid_override_pattern index_head_dim index_n_heads index_topk index_topk_freq
    indexer_types interleave_moe_layer_step intermediate_size intermediate_size_mlp kv_lora_rank layer_types
    linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads linear_num_value_heads linear_value_head_dim
    lm_head_bias mamba_head_dim mamba_num_heads mamba_proj_bias mamba_ssm_cache_dtype mamba_ssm_dtype
    max_position_embeddings max_window_layers mlp_bias mlp_layer_types mlp_only_layers mm_tokens_per_image model_type
    moe_intermediate_size moe_latent_size moe_layer_freq moe_shared_expert_intermediate_size
    mtp_hybrid_override_pattern mtp_num_hidden_layers mtp_transformer_layers mtp_use_dedicated_embeddings multi_query
    multimodal_projector_bias n_group n_groups n_routed_experts n_shared_experts new_decoder_architecture
    no_rope_layers num_attention_heads num_experts num_experts_per_tok num_global_key_value_heads num_hidden_layers
    num_key_value_heads num_kv_shared_layers num_local_experts num_mtp_modules num_nextn_predict_layers
    original_max_position_embeddings parallel_attn partial_rotary_factor q_lora_rank qk_head_dim qk_nope_head_dim
    qk_norm_type qk_rope_head_dim qkv_bias quantization_config rope_parameters rope_scaling rotary_dim
    shared_expert_intermediate_size shared_intermediate_size sliding_window sliding_window_pattern spatial_merge_size
    ssm_state_size text_config tie_word_embeddings top_k_experts torch_dtype use_bias use_conv_bias
    use_double_wide_mlp use_mtp use_qk_norm use_routing_bias use_sliding_window v_head_dim vision_config
    vision_soft_tokens_per_image vocab_size vocab_size_per_layer_input word_embed_proj_dim
"""
CONFIG_KEYS = set(CONFIG_KEY_NAMES.split())
QUANTIZATION_KEY_NAMES = """
    activation_scale_ub activation_scheme bits config_groups desc_act exclude_modules fmt format group_size ignore
    kv_cache_quant_algo modules_to_not_convert quant_algo quant_method quantization scale_fmt sym version
    weight_block_size zero_point
"""
QUANTIZATION_KEYS = set(QUANTIZATION_KEY_NAMES.split())
WEIGHT_KEYS = {"num_bits", "type", "strategy", "group_size", "symmetric", "dynamic"}
QUANTIZATION_NEEDS = {
    "awq": {"bits", "group_size", "zero_point"},
    "gptq": {"bits", "group_size", "desc_act", "sym"},
    "fp8": {"weight_block_size", "activation_scheme"},
    "fbgemm_fp8": {"modules_to_not_convert"},
    "mxfp4": {"modules_to_not_convert"},
    "modelopt": {"quantization"},
    "compressed-tensors": {"config_groups", "format", "ignore"},
}
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
LINEAR_ATTENTION = {
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads",
    "linear_value_head_dim",
}  # fmt: skip
NEMOTRON_H = {"mamba_num_heads", "mamba_head_dim", "ssm_state_size", "conv_kernel", "n_groups"}
# Short config.json files: what they leave out is a default of their class in transformers.
DEFAULTED = {"gemma3_text": {"vocab_size", "max_position_embeddings"}, "falcon": {"max_position_embeddings"}}

GPU_KEYS = {
    "name", "aliases", "vendor", "resourceName", "memoryGiB", "labelMiB", "marketingGB", "computeCapability",
    "bf16", "fp8", "fp4", "interconnect", "gpusPerNode", "weight", "source",
}  # fmt: skip
RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
# Total memory in GiB that torch reports, read from published logs; the row may not be larger.
SEEN_MEMORY = {
    "Tesla-T4": 14.56, "NVIDIA-L4": 22.03, "NVIDIA-A10G": 22.06, "NVIDIA-A10": 22.09, "NVIDIA-GeForce-RTX-3090": 23.58,
    "NVIDIA-GeForce-RTX-4090": 23.64, "NVIDIA-GeForce-RTX-5090": 31.37, "NVIDIA-L40S": 44.39,
    "NVIDIA-A100-SXM4-40GB": 39.49, "NVIDIA-A100-PCIE-40GB": 39.49, "NVIDIA-A100-SXM4-80GB": 79.25,
    "NVIDIA-A100-80GB-PCIe": 79.25, "NVIDIA-H100-80GB-HBM3": 79.18, "NVIDIA-H100-NVL": 93.09,
    "NVIDIA-GH200-480GB": 94.9, "NVIDIA-H200": 139.8, "NVIDIA-B200": 178.35, "NVIDIA-B300-SXM6-AC": 268.0,
    "NVIDIA-GB200": 184.31, "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": 94.97,
    "NVIDIA-RTX-PRO-4500-Blackwell": 31.38, "AMD_Instinct_MI300X_OAM": 191.69,
}  # fmt: skip


@cache
def text_of(name: str) -> str:
    return (files("vllm_operator") / "sizing" / "data" / name).read_text(encoding="utf-8")


@cache
def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(text_of(name), Loader=yaml.CSafeLoader)
    return data


def models() -> dict[str, Row]:
    return load("models.yaml")


def gpus() -> dict[str, Row]:
    return load("gpus.yaml")


def text_config(row: Row) -> Row:
    config: Row = row["config"]
    return config.get("text_config") or config


def quantizations(row: Row) -> Iterable[Row]:
    for config in (row["config"], text_config(row)):
        if section := config.get("quantization_config"):
            yield section
            return


def is_positive_integer(value: object) -> bool:
    return type(value) is int and value > 0


@pytest.mark.parametrize("name", ["models.yaml", "gpus.yaml"])
def test_no_row_is_written_twice(name: str) -> None:
    keys = re.findall(r"^([^#\s].*):$", text_of(name), re.MULTILINE)  # yaml keeps the last of equal keys without a word
    assert len({key.lower() for key in keys}) == len(keys) == len(load(name))


def test_catalogue_has_seventy_models_and_stays_small() -> None:
    assert len(models()) >= 70
    assert len(text_of("models.yaml").encode()) < 150_000


def test_every_model_row_can_be_parsed_alone() -> None:
    blocks = re.split(r"^(?=\S)", text_of("models.yaml"), flags=re.MULTILINE)
    alone: dict[str, Any] = {}
    for block in blocks:
        if not block.startswith("#"):
            alone |= yaml.load(block, Loader=yaml.CSafeLoader) or {}
    assert alone == models()


def test_model_rows_have_the_documented_keys_and_types() -> None:
    for name, row in models().items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", name), name
        assert {"source", "config"} <= set(row) <= MODEL_KEYS, name
        assert row.get("gated", True) is True, f"{name}: gated is true or absent"
        if "files" in row:
            assert set(row["files"]) == {"safetensorsBytes"}, name
            assert is_positive_integer(row["files"]["safetensorsBytes"]), name


def test_every_model_source_is_explained() -> None:
    header = text_of("models.yaml").split("# Sources are", 1)[1].split("\n\n", 1)[0]
    explained = set(re.findall(r"^#   (\S+)", header, re.MULTILINE))
    for name, row in models().items():
        first = re.match(r"(?:([\w-]+)(?:@[0-9a-f]{10})?|[\w.-]+/[\w.-]+@[0-9a-f]{10}): \S", row["source"])
        assert first is not None, f"{name}: {row['source']}"
        assert first[1] is None or first[1] in explained, f"{name}: {first[1]}"


def test_configs_have_no_unknown_key() -> None:
    for name, row in models().items():
        for config in (row["config"], text_config(row)):
            assert set(config) <= CONFIG_KEYS, f"{name}: {set(config) - CONFIG_KEYS}"


def test_configs_give_the_sizes_every_architecture_needs() -> None:
    for name, row in models().items():
        config = text_config(row)
        assert [type(item) for item in row["config"]["architectures"]] == [str], name
        assert isinstance(config["model_type"], str), name
        optional = DEFAULTED.get(config["model_type"], set())
        needed = {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"}
        for key in needed - (optional - set(config)):
            assert is_positive_integer(config.get(key)), f"{name}: {key}"
        assert any(
            key in config for key in ("intermediate_size", "moe_intermediate_size", "ffn_dim", "block_configs")
        ) or (
            config["model_type"] == "falcon"  # always four times the hidden size
        ), name


def test_heads_divide() -> None:
    for name, row in models().items():
        config = text_config(row)
        heads, kv = config["num_attention_heads"], config.get("num_key_value_heads") or 1
        assert heads % kv == 0, name
        if "head_dim" not in config and "kv_lora_rank" not in config:
            assert config["hidden_size"] % heads == 0, name


def test_latent_attention_and_experts_are_complete() -> None:
    for name, row in models().items():
        config = text_config(row)
        if "kv_lora_rank" in config:
            assert {"q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"} <= set(config), name
        experts = [key for key in EXPERT_COUNTS if key in config]
        if experts:
            assert len(experts) == 1, f"{name}: {experts}"
            assert is_positive_integer(config[experts[0]]), name
            assert {"num_experts_per_tok", "top_k_experts"} & set(config), name
            assert {"moe_intermediate_size", "intermediate_size"} & set(config), name


def test_hybrid_layers_are_complete() -> None:
    for name, row in models().items():
        config = text_config(row)
        layers = config["num_hidden_layers"]
        for key in ("layer_types", "block_configs", "mlp_layer_types", "indexer_types", "hybrid_override_pattern"):
            assert len(config.get(key, "x" * layers)) == layers, f"{name}: {key}"
        if "sliding_attention" in config.get("layer_types", ()):
            assert is_positive_integer(config.get("sliding_window")), name
        if LINEAR_ATTENTION & set(config):
            assert set(config) >= LINEAR_ATTENTION, name
            assert {"layer_types", "full_attention_interval"} & set(config), name
        if "hybrid_override_pattern" in config:
            assert set(config) >= NEMOTRON_H, name


def test_quantisation_sections_are_complete() -> None:
    for name, row in models().items():
        for section in quantizations(row):
            method = section["quant_method"]
            assert method in QUANTIZATION_NEEDS, f"{name}: {method}"
            assert QUANTIZATION_NEEDS[method] <= set(section) <= QUANTIZATION_KEYS, name
            inner = section.get("quantization", {})
            assert set(inner) <= QUANTIZATION_KEYS, name
            assert method != "modelopt" or "quant_algo" in inner, name
            for group in section.get("config_groups", {}).values():
                assert set(group) <= {"targets", "weights", "input_activations"}, name
                assert {"num_bits", "type"} <= set(group["weights"]) <= WEIGHT_KEYS, name


def test_quantised_names_match_the_section() -> None:
    marks = re.compile(r"AWQ|GPTQ|FP8|NVFP4|\.w\d+a\d+")
    for name, row in models().items():
        if marks.search(name):
            assert list(quantizations(row)), f"{name} says it is quantised, its config does not"


def test_gpu_rows_have_the_documented_keys_and_types() -> None:
    for label, row in gpus().items():
        wanted = GPU_KEYS - ({"labelMiB"} if row["vendor"] == "amd" else set())
        assert set(row) == wanted, f"{label}: {set(row) ^ wanted}"
        assert row["resourceName"] == RESOURCES[row["vendor"]], label
        assert row["interconnect"] in {"nvlink", "pcie", "xgmi", "c2c"}, label
        assert all(type(row[flag]) is bool for flag in ("bf16", "fp8", "fp4")), label
        assert row["gpusPerNode"], label
        assert row["gpusPerNode"] == sorted(set(row["gpusPerNode"])), label
        assert all(is_positive_integer(count) for count in row["gpusPerNode"]), label
        assert type(row["memoryGiB"]) is float, label
        assert type(row["weight"]) is float, label
        assert row["weight"] > 0, label


def test_gpu_labels_names_and_aliases_are_unique() -> None:
    names = [name.lower() for label, row in gpus().items() for name in (label, row["name"], *row["aliases"])]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_gpu_labels_are_legal_label_values() -> None:
    for label, row in gpus().items():
        for value in (label, row["name"], *row["aliases"]):
            assert re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", value), value


def test_gpu_memory_is_less_than_the_name_and_the_driver_say() -> None:
    for label, row in gpus().items():
        assert row["memoryGiB"] < row["marketingGB"], label
        if "labelMiB" in row:
            assert 0.2 < row["labelMiB"] / 1024 - row["memoryGiB"] < 1.15, label


def test_gpu_memory_is_sourced() -> None:
    marks = re.compile(r"\((measured|log|smi|derived|general|unverified)[);]|memory as the ")
    for label, row in gpus().items():
        assert "memory" in row["source"], label
        assert marks.search(row["source"]), label
        if "memory (derived" in row["source"]:
            assert row["memoryGiB"] == pytest.approx(row["labelMiB"] / 1024 - 0.75, abs=0.01), label


def test_gpu_formats_follow_the_compute_capability() -> None:
    for label, row in gpus().items():
        if row["vendor"] == "amd":
            assert re.fullmatch(r"gfx9\d{2}", row["computeCapability"]), label
            continue
        capability = float(row["computeCapability"])
        assert (row["bf16"], row["fp8"], row["fp4"]) == (capability >= 8.0, capability >= 8.9, capability >= 10.0), (
            label
        )


@pytest.mark.parametrize("label", SEEN_MEMORY)
def test_gpu_table_has_the_common_products(label: str) -> None:
    assert gpus()[label]["memoryGiB"] <= SEEN_MEMORY[label]
    assert gpus()[label]["memoryGiB"] == pytest.approx(SEEN_MEMORY[label], rel=0.003)


def test_gpu_weights_keep_the_order_of_prices() -> None:
    by_name = {row["name"]: row["weight"] for row in gpus().values()}
    order = [by_name[name] for name in ("T4", "L4", "L40S", "A100-40", "A100-80", "H100", "H200", "B200")]
    assert order == sorted(set(order))


def test_requirement_classes_agree_with_the_rule_and_the_reference() -> None:
    table = load("requirements.yaml")
    classes = table["classes"]
    assert [(row["name"], row["weightsGB"]) for row in classes] == [
        ("7B", 14), ("13B", 26), ("34B", 68), ("70B", 140), ("405B", 810),
    ]  # fmt: skip
    for row in classes:
        assert row["name"] == f"{row['billions']}B"
        assert row["weightsGB"] == row["billions"] * table["bytesPerParameter"]["bfloat16"]
        assert row["kvBytesPerToken"] == 2 * row["layers"] * row["keyValueHeads"] * row["headSize"] * 2
        config = text_config(models()[row["reference"]])
        shape = (
            row["layers"],
            row["hiddenSize"],
            row["intermediateSize"],
            row["attentionHeads"],
            row["vocabularySize"],
        )
        assert shape == tuple(
            config[key]
            for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        )
        assert row["referenceGiB"] == pytest.approx(dense_gibibytes(row, config["max_position_embeddings"]), rel=1e-4)


def dense_gibibytes(row: Row, length: int) -> float:
    """Weights of a dense model with untied embeddings at 16 bit on one GPU, rotary cache included, in GiB."""
    hidden, head = row["hiddenSize"], row["headSize"]
    attention = (2 * row["attentionHeads"] + 2 * row["keyValueHeads"]) * head * hidden
    layer = attention + 3 * row["intermediateSize"] * hidden + 2 * hidden
    elements = 2 * row["vocabularySize"] * hidden + row["layers"] * layer + hidden + length * head
    return float(elements * 2 / 2**30)


def test_bytes_per_parameter_are_ordered_and_positive() -> None:
    table = load("requirements.yaml")["bytesPerParameter"]
    assert table["awq"] < table["mxfp4"] < table["nvfp4"] < table["int8"] == table["fp8"] < table["bfloat16"]
    assert all(0.5 < size <= 4 for size in table.values())
