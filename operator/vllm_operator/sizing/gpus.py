"""GPUs that the operator knows: a table keyed by product label, loaded once when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LABEL_EXCESS_GIB = 0.75
"""How much more `nvidia.com/gpu.memory` says than torch sees, at most (A100; other cards 0.35 to 0.71 GiB)."""


@dataclass(frozen=True, slots=True)
class GPU:
    """One product. `memory_gib` is what torch reports as total memory, not what the product's name says."""

    product: str
    name: str
    memory_gib: float
    aliases: tuple[str, ...] = ()
    vendor: str = "nvidia"
    resource_name: str = "nvidia.com/gpu"
    compute_capability: str = ""
    bf16: bool = True
    fp8: bool = False
    fp4: bool = False
    interconnect: str = "pcie"
    gpus_per_node: tuple[int, ...] = ()
    weight: float = 1.0  # relative cost of one GPU
    known: bool = True

    @property
    def capability(self) -> int | None:
        """CUDA compute capability as vLLM writes it (8.9 is 89); None where there is none or it is not known."""
        major, dot, minor = self.compute_capability.partition(".")
        return int(major) * 10 + int(minor) if dot and major.isdigit() and minor.isdigit() else None

    @property
    def nvlink(self) -> bool:
        """Whether every GPU of a node reaches every other without PCIe."""
        return self.interconnect in {"nvlink", "xgmi", "c2c"}


def gpu_from_row(product: str, row: Mapping[str, Any]) -> GPU:
    """A GPU from a row of gpus.yaml. Raises KeyError, TypeError or ValueError for a row that is not complete."""
    return GPU(
        product=product,
        name=str(row["name"]),
        memory_gib=float(row["memoryGiB"]),
        aliases=tuple(str(alias) for alias in row.get("aliases", ())),
        vendor=str(row.get("vendor", "nvidia")),
        resource_name=str(row.get("resourceName", "nvidia.com/gpu")),
        compute_capability=str(row.get("computeCapability", "")),
        bf16=bool(row.get("bf16", True)),
        fp8=bool(row.get("fp8", False)),
        fp4=bool(row.get("fp4", False)),
        interconnect=str(row.get("interconnect", "pcie")),
        gpus_per_node=tuple(int(count) for count in row.get("gpusPerNode", ())),
        weight=float(row.get("weight", 1.0)),
    )


def data_text(name: str) -> str:
    """Content of a data file of this package."""
    return files("vllm_operator.sizing").joinpath("data", name).read_text(encoding="utf-8")


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever the document holds
    """Parse YAML with libyaml where it is installed (ten times faster)."""
    import yaml  # noqa: PLC0415 - costs 20 ms, and catalogue names are found without it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones


@cache
def gpus() -> Mapping[str, GPU]:
    """All rows of the table by product label."""
    rows = parse_yaml(data_text("gpus.yaml"))
    return {product: gpu_from_row(product, row) for product, row in rows.items()}


def _folded(label: str) -> str:
    """Labels are compared without case, dashes and spaces: `RTX 4090` is `rtx-4090`."""
    return label.casefold().replace("-", "").replace(" ", "").replace("_", "")


@cache
def _index() -> Mapping[str, GPU]:
    index: dict[str, GPU] = {}
    for gpu in gpus().values():
        for label in (gpu.product, gpu.name, *gpu.aliases):
            index.setdefault(_folded(label), gpu)
    return index


def lookup(label: str) -> GPU | None:
    """The GPU of that product label, alias or short name, whatever its case; None for one the table does not know."""
    return _index().get(_folded(label))


def unknown_gpu(product: str, memory_gib: float) -> GPU:
    """A GPU that the table does not know, of which somebody said the memory (as on its label, in GiB)."""
    return GPU(product, product, max(memory_gib - LABEL_EXCESS_GIB, 0.0), weight=max(memory_gib, 1.0) / 24, known=False)
