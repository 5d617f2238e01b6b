"""Rows that a platform team adds reach every decision: which GPUs there are, what they cost, which models are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_operator.__main__ import main
from vllm_operator.api.parse import parse
from vllm_operator.config import load
from vllm_operator.errors import UsageError
from vllm_operator.inventory import Inventory
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.sizing.gpus import lookup
from vllm_operator.sizing.tables import load_tables
from vllm_operator.sizing.types import Offer

ROOT = Path(__file__).resolve().parents[2]
TABLES = """
gpus:
  NVIDIA-H100-80GB-HBM3: {weight: 0.1}
  Acme-GPU: {memoryGiB: 47.5, computeCapability: "9.0", bf16: true, fp8: true, weight: 9, gpusPerNode: [8]}
  Odd-GPU: {memoryGiB: lots}
models:
  acme/secret-8b:
    config:
      architectures: [LlamaForCausalLM]
      hidden_size: 4096
      intermediate_size: 14336
      num_hidden_layers: 32
      num_attention_heads: 32
      num_key_value_heads: 8
      vocab_size: 128256
      max_position_embeddings: 131072
      torch_dtype: bfloat16
"""


def defaults() -> Defaults:
    return Defaults(tables=load_tables(TABLES))


def resource(**gpu: object) -> dict[str, object]:
    spec = {"model": {"source": "hf://acme/secret-8b"}, "gpu": gpu}
    return {"metadata": {"name": "acme"}, "spec": spec}


def test_added_model_and_gpu_are_known() -> None:
    plan = make_plan(parse(resource(product="Acme-GPU")), defaults(), Facts())
    assert plan.refusal is None
    assert plan.model is not None
    assert plan.model.known_from == "the operator's own table"
    assert plan.sizing is not None
    assert plan.sizing.gpu is not None
    assert (plan.sizing.gpu.product, plan.sizing.gpus) == ("Acme-GPU", 1)


def test_without_the_table_they_are_not() -> None:
    plan = make_plan(parse(resource(product="Acme-GPU")), Defaults(), Facts())
    assert plan.refusal is not None
    assert plan.refusal.reason == "UnknownGPU"


@pytest.mark.parametrize(("given", "chosen"), [(Defaults(), "NVIDIA-L40S"), (defaults(), "NVIDIA-H100-80GB-HBM3")])
def test_added_weight_decides_between_products(given: Defaults, chosen: str) -> None:
    names = ("NVIDIA-L40S", "NVIDIA-H100-80GB-HBM3")
    known = [given.tables.gpu(name) or lookup(name) for name in names]
    offers = tuple(Offer(gpu, 8, 1) for gpu in known if gpu)
    spec = {"model": {"source": "hf://Qwen/Qwen3-8B"}}
    plan = make_plan(parse({"metadata": {"name": "x"}, "spec": spec}), given, Facts(offers=offers))
    assert plan.sizing is not None
    assert plan.sizing.gpu is not None
    assert plan.sizing.gpu.product == chosen


def test_added_gpu_is_found_on_nodes() -> None:
    labels = {"nvidia.com/gpu.product": "Acme-GPU"}
    status = {"allocatable": {"nvidia.com/gpu": "8"}}
    inventory = Inventory(defaults().tables)
    assert inventory.see({"metadata": {"name": "node", "labels": labels}, "status": status})
    assert [(offer.gpu.memory_gib, offer.gpus_per_node) for offer in inventory.offers()] == [(47.5, 8)]


def test_label_of_unknown_product_is_corrected_once() -> None:
    labels = {"nvidia.com/gpu.product": "Unheard-Of", "nvidia.com/gpu.memory": "49152"}
    inventory = Inventory()
    inventory.see({"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}})
    assert inventory.offers()[0].gpu.memory_gib == 48 - 0.75


def test_wrong_row_is_told_and_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(TABLES)
    monkeypatch.setenv("VLLM_OPERATOR_TABLES", str(path))
    assert main(["validate", str(ROOT / "manifests" / "samples" / "any-gpu.yaml")]) == 0
    assert "line 5: gpus.Odd-GPU.memoryGiB: 'lots'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"), [("gpus: [", ": this is no YAML: "), ("- gpus", "line 1: a mapping with gpus and models")]
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load({"VLLM_OPERATOR_TABLES": str(path)}, {}).defaults()
    assert said in str(caught.value)


def test_missing_file_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load({"VLLM_OPERATOR_TABLES": "/no/such/file"}, {}).defaults()
