"""Which GPUs the cluster offers, as node labels and allocatable resources tell."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from localcluster.nodes import fleet, gpu_nodes
from planning import fleet_offers
from vllm_operator.inventory import Inventory, gpus_of_node
from vllm_operator.sizing.gpus import gpus, lookup


def node(
    product: str | None, count: object = 8, memory: str | None = None, *, name: str = "n", cordoned: bool = False
) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory}
    return {
        "metadata": {"name": name, "labels": {key: value for key, value in labels.items() if value is not None}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": count}},
    }


def seen(*nodes: dict[str, Any]) -> list[tuple[str, int, int]]:
    inventory = Inventory()
    for one in nodes:
        inventory.see(one)
    return [(offer.gpu.product, offer.gpus_per_node, offer.nodes) for offer in inventory.offers()]


def test_the_nodes_of_the_local_cluster() -> None:
    found = {(offer.gpu.product, offer.gpus_per_node): offer.nodes for offer in fleet_offers()}
    assert found[("NVIDIA-H100-80GB-HBM3", 8)] >= 1
    assert found[("NVIDIA-L4", 4)] >= 1
    assert found[("AMD_Instinct_MI300X_OAM", 8)] >= 1
    assert all(offer.gpu.known for offer in fleet_offers())
    assert sum(found.values()) == sum(gpus_of_node(one) is not None for one in fleet())


def test_nodes_are_summed_by_product_and_size_in_an_order_of_their_own() -> None:
    nodes = [
        node("NVIDIA-L4", 4, name="a"),
        node("NVIDIA-L4", 4, name="b"),
        node("NVIDIA-L4", 8, name="c"),
        node("NVIDIA-H200", 8, name="d"),
        node("Some-New-GPU", 2, "40960", name="e"),
        node("Some-New-GPU", 2, "20480", name="f"),
    ]
    expected = [("NVIDIA-H200", 8, 1), ("NVIDIA-L4", 4, 2), ("NVIDIA-L4", 8, 1), ("Some-New-GPU", 2, 2)]
    for order in itertools.islice(itertools.permutations(nodes), 0, 720, 90):
        inventory = Inventory()
        for one in order:
            inventory.see(one)
        assert [(offer.gpu.product, offer.gpus_per_node, offer.nodes) for offer in inventory.offers()] == expected
        # Of two cards by one label the smaller counts, whichever node came first.
        assert inventory.offers()[-1].gpu.memory_gib == pytest.approx(20 - 0.75)


@pytest.mark.parametrize(
    "useless",
    [
        node(None),
        node("NVIDIA-L4", 0),
        node("NVIDIA-L4", "0"),
        node("NVIDIA-L4", "many"),
        node("NVIDIA-L4-SHARED", 16),
        node("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", 7),
        node("Some-New-GPU"),
        node("Some-New-GPU", 8, "unknown"),
        {"metadata": {"name": "bare"}},
        {"metadata": {"name": "young", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}}, "status": {}},
    ],
)
def test_nodes_that_offer_nothing(useless: dict[str, Any]) -> None:
    assert gpus_of_node(useless) is None
    assert seen(useless) == []


def test_a_card_that_no_table_knows_has_the_memory_of_its_label() -> None:
    found = gpus_of_node(node("Some-New-GPU", 4, "49140"))
    assert found is not None
    gpu, count = found
    assert (gpu.product, gpu.known, count) == ("Some-New-GPU", False, 4)
    assert gpu.memory_gib == pytest.approx(49140 / 1024 - 0.75), "what torch sees is a little less, and only once"


def test_another_label_of_a_known_card_is_what_pods_select_by() -> None:
    alias = next(alias for gpu in gpus().values() for alias in gpu.aliases if alias.startswith("NVIDIA-") and gpu.known)
    known = lookup(alias)
    found = gpus_of_node(node(alias))
    assert known is not None
    assert found is not None
    assert found[0].product == alias != known.product
    assert (found[0].name, found[0].memory_gib) == (known.name, known.memory_gib)


def test_a_cordoned_node_is_offered_to_those_who_run_on_its_product_alone() -> None:
    inventory = Inventory()
    for one in (
        node("NVIDIA-L4", 4, name="a"),
        node("NVIDIA-L4", 4, name="b", cordoned=True),
        node("NVIDIA-A2", 2, name="c", cordoned=True),
    ):
        assert inventory.see(one)

    def offered(running: str = "") -> list[tuple[str, int, int]]:
        return [(one.gpu.product, one.gpus_per_node, one.nodes) for one in inventory.offers(running)]

    assert offered() == [("NVIDIA-L4", 4, 1)]
    assert offered("NVIDIA-L4") == [("NVIDIA-L4", 4, 2)]
    assert offered("NVIDIA-A2") == [("NVIDIA-A2", 2, 1), ("NVIDIA-L4", 4, 1)]
    assert offered("NVIDIA-H200") == offered()


def test_nodes_that_vanished_unseen_are_offered_no_more() -> None:
    inventory = Inventory()
    for one in (node("NVIDIA-L4", 4, name="a"), node("NVIDIA-A2", 2, name="b", cordoned=True), node(None, name="c")):
        inventory.see(one)
    assert inventory.offers("NVIDIA-A2")
    assert inventory.names() == {"a", "b"}
    inventory.drop(["a", "b"])
    assert inventory.offers("NVIDIA-A2") == ()
    assert inventory.names() == set()


def test_only_changes_are_news() -> None:
    inventory, (one, *_) = Inventory(), gpu_nodes("NVIDIA-L4", 4, 1)
    heartbeat = {**one, "metadata": {**one["metadata"], "resourceVersion": "2"}}
    assert inventory.see(one)
    assert not inventory.see(heartbeat)
    assert inventory.see({**one, "spec": {"unschedulable": True}})
    assert inventory.offers() == ()
    assert inventory.see(one, deleted=True), "servers may still run on its product"
    assert inventory.see(one)
    assert inventory.see(one, deleted=True)
    assert inventory.offers() == ()
