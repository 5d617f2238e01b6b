"""Which shapes are looked at for an offer, in the order in which they are preferred."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vllm_operator.sizing.types import Offer, Reason, ReasonKind, SizingRequest
from vllm_operator.sizing.weights import Shape

MOST_NODES = 16
"""Nodes of one replica that are tried when nobody says how many."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A shape on some nodes of an offer."""

    offer: Offer
    shape: Shape
    nodes: int

    @property
    def cost(self) -> float:
        """Relative cost of one replica."""
        return self.offer.gpu.weight * self.shape.gpus

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Fewest GPUs, fewest nodes, smallest pipeline, largest tensor-parallel size."""
        return (self.shape.gpus, self.nodes, self.shape.pipeline, -self.shape.tensor)

    def __str__(self) -> str:
        """`8 x H100 (TP 8)`."""
        shape = self.shape
        split = f"TP {shape.tensor}" + (f" x PP {shape.pipeline}" if shape.pipeline > 1 else "")
        split += ", expert parallel" if shape.expert else ""
        nodes = f", {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{shape.gpus} x {self.offer.gpu.name} ({split}{nodes})"


def powers_of_two(limit: int) -> Iterator[int]:
    """1, 2, 4 ... up to `limit`."""
    value = 1
    while value <= limit:
        yield value
        value *= 2


def inventory_reason(request: SizingRequest, offer: Offer) -> Reason | None:
    """Why the offer has too few GPUs or nodes for what is asked, or None."""
    gpus = wanted_gpus(request)
    name, each, nodes = offer.gpu.name, offer.gpus_per_node, offer.nodes
    if request.tensor and request.tensor > each:
        said = f"Tensor parallel size {request.tensor} must stay inside a node; nodes with {name} have {each} GPUs."
        return Reason("NotEnoughGPUsPerNode", said, ReasonKind.INVENTORY)
    if request.nodes and request.nodes > nodes:
        said = f"{request.nodes} nodes with {name} are asked for; there are {nodes}."
        return Reason("NotEnoughNodes", said, ReasonKind.INVENTORY)
    if gpus and gpus > each * nodes:
        code = "NotEnoughGPUsPerNode" if nodes == 1 else "NotEnoughNodes"
        said = f"{gpus} GPUs of {name} are asked for; there are {nodes} nodes with {each} each."
        return Reason(code, said.replace("1 nodes", "1 node"), ReasonKind.INVENTORY)
    if gpus and request.nodes and gpus > each * request.nodes:
        said = f"{gpus} GPUs on {request.nodes} node(s) are asked for; a node has {each} of {name}."
        return Reason("NotEnoughGPUsPerNode", said, ReasonKind.INVENTORY)
    if gpus and gpus > each and gpus % each:
        said = f"{gpus} GPUs are more than one node has ({each} of {name}) and no whole number of nodes."
        return Reason("NotEnoughGPUsPerNode", said, ReasonKind.INVENTORY)
    return None


def wanted_gpus(request: SizingRequest) -> int | None:
    """The number of GPUs that the request fixes, directly or by both parallel sizes."""
    if request.gpus is not None:
        return request.gpus
    if request.tensor is not None and request.pipeline is not None:
        return request.tensor * request.pipeline
    return None


def counts(request: SizingRequest, offer: Offer) -> Iterator[tuple[int, int]]:
    """(GPUs, nodes) to try, fewest first. More than one node means whole nodes."""
    each = offer.gpus_per_node
    fixed = wanted_gpus(request)
    if fixed is not None:
        nodes = -(-fixed // each)
        if request.nodes is None or request.nodes == nodes or fixed % request.nodes == 0:
            yield fixed, request.nodes or nodes
        return
    if request.nodes in {None, 1}:
        step = request.tensor or 1
        if request.pipeline:
            yield from ((tp * request.pipeline, 1) for tp in powers_of_two(each // request.pipeline))
        else:
            yield from ((step * pp, 1) for pp in powers_of_two(each // step))
    if request.nodes is None:
        yield from ((each * nodes, nodes) for nodes in range(2, min(offer.nodes, MOST_NODES) + 1))
    elif request.nodes > 1:
        yield each * request.nodes, request.nodes


def splits(request: SizingRequest, gpus: int, nodes: int, per_node: int) -> Iterator[Shape]:
    """Ways to split `gpus`: the largest tensor-parallel size first, which never crosses a node."""
    inside = max(1, min(per_node, gpus // nodes))
    sizes = (
        [request.tensor] if request.tensor else [tp for tp in range(inside, 0, -1) if is_power_of_two(tp) or tp == gpus]
    )
    for tensor in sizes:
        if gpus % tensor or (request.pipeline and gpus // tensor != request.pipeline):
            continue
        pipeline = gpus // tensor
        if nodes > 1 and pipeline % nodes:
            continue
        yield Shape(tensor, pipeline, request.expert)


def is_power_of_two(value: int) -> bool:
    """1, 2, 4, 8 ..."""
    return value & (value - 1) == 0


def candidates(request: SizingRequest, offer: Offer, valid: Callable[[Shape], bool]) -> Iterator[Candidate]:
    """Shapes to estimate, the preferred ones first.

    For every number of GPUs: the largest tensor-parallel size that the model allows, the rest as pipeline;
    where experts cannot be
    split, whole experts per GPU.
    """
    for gpus, nodes in counts(request, offer):
        for shape in splits(request, gpus, nodes, offer.gpus_per_node):
            whole = Shape(shape.tensor, shape.pipeline, expert=True)
            if valid(shape):
                yield Candidate(offer, shape, nodes)
                break
            if shape.tensor > 1 and not shape.expert and valid(whole):
                yield Candidate(offer, whole, nodes)
                break


def first_splits(request: SizingRequest, offer: Offer) -> Iterator[Candidate]:
    """The first shape of every count, valid or not: what a refusal explains."""
    for gpus, nodes in counts(request, offer):
        for shape in splits(request, gpus, nodes, offer.gpus_per_node):
            yield Candidate(offer, shape, nodes)
            break
