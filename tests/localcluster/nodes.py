"""Manifests of simulated nodes, labelled as real GPU nodes are. The data is in manifests/nodes.yaml."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from localcluster.errors import LocalClusterError
from localcluster.paths import MANIFESTS

Manifest = dict[str, Any]

# kwok looks after nodes with this annotation and leaves all others alone.
KWOK_ANNOTATION = ("kwok.x-k8s.io/node", "fake")
SIMULATED_LABEL = ("localcluster.test/simulated", "true")
_GENEROUS = {"cpu": "256", "memory": "4Ti", "ephemeral-storage": "16Ti", "pods": "500"}
_SCALE_GPUS_PER_NODE = 8


def fleet() -> list[Manifest]:
    """Return the nodes that every local cluster starts with."""
    rows: list[Mapping[str, Any]] = _data()["fleet"]
    return [
        _node(f"{row['name']}-{index}", row.get("product"), row.get("gpus", 0))
        for row in rows
        for index in range(row["nodes"])
    ]


def gpu_nodes(product: str, gpus: int, nodes: int, prefix: str = "extra") -> list[Manifest]:
    """Return `nodes` nodes with `gpus` GPUs of `product` each, named by `prefix`.

    Raises:
        LocalClusterError: the product is not in manifests/nodes.yaml.
    """
    return [_node(f"{prefix}-{index}", product, gpus) for index in range(nodes)]


def scale_nodes(gpus: int, product: str = "NVIDIA-GeForce-RTX-4090", prefix: str = "scale") -> list[Manifest]:
    """Return enough 8-GPU nodes for `gpus` GPUs of `product`, so that as many one-GPU pods can be scheduled."""
    return gpu_nodes(product, _SCALE_GPUS_PER_NODE, math.ceil(gpus / _SCALE_GPUS_PER_NODE), prefix)


def _data() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((MANIFESTS / "nodes.yaml").read_text())
    return data


def _node(name: str, product: str | None, gpus: int) -> Manifest:
    labels, resources = gpu_facts(product, gpus) if product else ({}, {})
    capacity = _GENEROUS | resources
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": dict([KWOK_ANNOTATION]),
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **dict([SIMULATED_LABEL]),
                **labels,
            },
        },
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def gpu_facts(product: str, gpus: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and the extended resources of a node with `gpus` GPUs of `product`."""
    data = _data()
    if row := data["products"].get(product):
        return _nvidia_labels(product, gpus, row), {"nvidia.com/gpu": str(gpus)}
    if row := data["amdProducts"].get(product):
        return _amd_labels(product, gpus, row), {"amd.com/gpu": str(gpus)}
    known = ", ".join([*data["products"], *data["amdProducts"]])
    raise LocalClusterError(f"no GPU product {product!r} in manifests/nodes.yaml; add it, or use one of: {known}")


def _nvidia_labels(product: str, gpus: int, row: Mapping[str, Any]) -> dict[str, str]:
    major, minor = row["compute"].split(".")
    labels = {
        "gpu.present": "true",
        "gpu.product": product,
        "gpu.memory": str(row["memory"]),
        "gpu.count": str(gpus),
        "gpu.replicas": "1",
        "gpu.sharing-strategy": "none",
        "gpu.family": row["family"],
        "gpu.compute.major": major,
        "gpu.compute.minor": minor,
        "gpu.machine": row["machine"],
        "gpu.mode": "compute",
        "mig.capable": str(row.get("mig", False)).lower(),
        "mig.strategy": "single",
        "mps.capable": "false",
        "vgpu.present": "false",
    }
    return {f"nvidia.com/{key}": value for key, value in labels.items()}


def _amd_labels(product: str, gpus: int, row: Mapping[str, Any]) -> dict[str, str]:
    labels = {
        "product-name": product,
        "vram": row["vram"],
        "family": row["family"],
        "device-id": row["deviceId"],
        "cu-count": str(row["computeUnits"]),
        "simd-count": str(row["simdUnits"]),
    }
    counted = {f"amd.com/gpu.{key}.{value}": str(gpus) for key, value in labels.items()}
    return {f"amd.com/gpu.{key}": value for key, value in labels.items()} | counted
