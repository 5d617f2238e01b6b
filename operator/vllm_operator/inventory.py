"""GPU nodes of the cluster, as the labels of NVIDIA's feature discovery and the allocatable resources tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
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
    """Which GPU a node carries and how many can be allocated; None for nodes without."""
    gpu = _gpu_of(node["metadata"].get("labels") or {}, tables)
    if gpu is None:
        return None
    allocatable = ((node.get("status") or {}).get("allocatable") or {}).get(gpu.resource_name, "0")
    count = int(allocatable) if str(allocatable).isdigit() else 0
    return (gpu, count) if count else None


@dataclass(frozen=True, slots=True)
class _Node:
    gpu: GPU
    count: int
    cordoned: bool


class Inventory:
    """The GPU nodes as last seen."""

    def __init__(self, tables: Tables = EMPTY) -> None:
        self._tables = tables
        self._nodes: dict[str, _Node] = {}
        self._offers: tuple[Offer, ...] | None = ()  # None: to be summed up again
        self._with_cordoned: tuple[Offer, ...] = ()

    def see(self, node: Mapping[str, Any], *, deleted: bool = False) -> bool:
        """Take note of a node; true when that changes what the cluster offers."""
        name = node["metadata"]["name"]
        gpus = None if deleted else gpus_of_node(node, self._tables)
        found = _Node(*gpus, bool((node.get("spec") or {}).get("unschedulable"))) if gpus else None
        if self._nodes.get(name) == found:
            return False
        if found is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = found
        self._offers = None
        return True

    def names(self) -> set[str]:
        """Names of the GPU nodes, cordoned or not."""
        return set(self._nodes)

    def drop(self, gone: Iterable[str]) -> None:
        """Nodes whose deletion the watch missed."""
        for name in gone:
            self._nodes.pop(name, None)
        self._offers = None

    def offers(self, running: str = "") -> tuple[Offer, ...]:
        """What the cluster offers: allocatable GPUs, whether free or not, but for cordoned nodes.

        Those count for the product that servers run on already, which a cordon does not end.
        """
        if self._offers is None:
            self._offers = _summed([one for one in self._nodes.values() if not one.cordoned])
            self._with_cordoned = _summed(self._nodes.values())
        if not running:
            return self._offers
        others = (offer for offer in self._offers if offer.gpu.product != running)
        same = (offer for offer in self._with_cordoned if offer.gpu.product == running)
        return tuple(sorted((*others, *same), key=_order))


def _order(offer: Offer) -> tuple[str, int]:
    """A fixed one, so that choices do not depend on who came first."""
    return offer.gpu.product, offer.gpus_per_node


def _summed(nodes: Collection[_Node]) -> tuple[Offer, ...]:
    """Nodes of one kind and size together."""
    counts = Counter((one.gpu.product, one.count) for one in nodes)
    roomiest_first = sorted((one.gpu for one in nodes), key=lambda gpu: -gpu.memory_gib)
    by_product = {gpu.product: gpu for gpu in roomiest_first}  # of cards that only their labels tell: the smallest
    return tuple(sorted((Offer(by_product[name], size, many) for (name, size), many in counts.items()), key=_order))
