"""GPU nodes of the cluster, as the labels of NVIDIA's feature discovery and the allocatable resources tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_operator.sizing.gpus import GPU, lookup, unknown_gpu
from vllm_operator.sizing.tables import EMPTY, Tables
from vllm_operator.sizing.types import Offer

PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"
AMD_PRODUCT = "amd.com/gpu.product-name"


def _gpu_of(labels: Mapping[str, str], tables: Tables) -> GPU | None:
    product = labels.get(PRODUCT) or labels.get(AMD_PRODUCT)
    if not product or product.endswith("-SHARED") or "-MIG-" in product:
        return None  # a share of a GPU is not a GPU of the table
    if known := tables.gpu(product) or lookup(product):
        return replace(known, product=product)  # pods select nodes by the very label
    memory = labels.get(MEMORY, "")
    return unknown_gpu(product, int(memory) / 1024) if memory.isdigit() else None


def gpus_of_node(node: Mapping[str, Any], tables: Tables = EMPTY) -> tuple[GPU, int] | None:
    """Which GPU a node carries and how many can be allocated; None for nodes without, and for cordoned ones."""
    gpu = _gpu_of(node["metadata"].get("labels") or {}, tables)
    if gpu is None or (node.get("spec") or {}).get("unschedulable"):
        return None
    allocatable = ((node.get("status") or {}).get("allocatable") or {}).get(gpu.resource_name, "0")
    count = int(allocatable) if str(allocatable).isdigit() else 0
    return (gpu, count) if count else None


class Inventory:
    """The GPU nodes as last seen."""

    def __init__(self, tables: Tables = EMPTY) -> None:
        self._tables = tables
        self._nodes: dict[str, tuple[GPU, int]] = {}
        self._offers: tuple[Offer, ...] = ()

    def see(self, node: Mapping[str, Any], *, deleted: bool = False) -> bool:
        """Take note of a node; true when that changes what the cluster offers."""
        name = node["metadata"]["name"]
        found = None if deleted else gpus_of_node(node, self._tables)
        if self._nodes.get(name) == found:
            return False
        if found is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = found
        self._offers = self._summed()
        return True

    def _summed(self) -> tuple[Offer, ...]:
        """Nodes of one kind and size together, in a fixed order so that choices do not depend on who came first."""
        counts = Counter((gpu.product, per_node) for gpu, per_node in self._nodes.values())
        roomiest_first = sorted((gpu for gpu, _ in self._nodes.values()), key=lambda gpu: -gpu.memory_gib)
        by_product = {gpu.product: gpu for gpu in roomiest_first}  # of cards that only their labels tell: the smallest
        return tuple(Offer(by_product[product], size, nodes) for (product, size), nodes in sorted(counts.items()))

    def offers(self) -> tuple[Offer, ...]:
        """What the cluster offers: allocatable GPUs, whether free or not."""
        return self._offers
