"""The addresses of a cluster with a real node: a block of its own, so that several run side by side."""

import ipaddress
import json
import subprocess
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import LocalClusterError

# One /16 of the private range 10.0.0.0/8 (RFC 1918) each.
_FIRST_BLOCK, _BLOCKS = 200, 40


@dataclass(frozen=True, slots=True)
class Network:
    """The addresses below 10.(200 + slot).0.0/16: a link between this machine and the node, its pods, and services."""

    slot: int

    @property
    def block(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.{_FIRST_BLOCK + self.slot}.0.0/16")

    @property
    def host(self) -> str:
        """This machine as the node and its pods see it; the API server answers there."""
        return self._at(1)

    @property
    def node(self) -> str:
        """The node's internal IP address."""
        return self._at(2)

    @property
    def pods(self) -> str:
        return f"{self._at(0x100)}/24"

    @property
    def services(self) -> str:
        return f"{self._at(0x8000)}/20"

    @property
    def kubernetes_service(self) -> str:
        """The address of the Service `kubernetes`: the first of the range."""
        return self._at(0x8001)

    @property
    def link(self) -> str:
        """The name of this machine's end of the link."""
        return f"vllm-op{self.slot}"

    def _at(self, offset: int) -> str:
        return str(self.block.network_address + offset)


def free_slot(taken: Container[int]) -> int:
    """Return a slot that is not `taken`, whose block this machine has no route into, and whose link is not there.

    The link of a node that ends may outlast its routes by a moment.

    Raises:
        LocalClusterError: there is none.
    """
    routes = [network for network in _routes() if network.prefixlen]
    for slot in range(_BLOCKS):
        network = Network(slot)
        there = Path("/sys/class/net", network.link).exists()
        if slot not in taken and not there and not any(route.overlaps(network.block) for route in routes):
            return slot
    raise LocalClusterError(
        f"no free address block between 10.{_FIRST_BLOCK}.0.0 and 10.{_FIRST_BLOCK + _BLOCKS - 1}.0.0; "
        "end other clusters with `python -m localcluster down`"
    )


def _routes() -> list[ipaddress.IPv4Network]:
    answer = subprocess.run(["ip", "-json", "-4", "route", "show"], capture_output=True, text=True, check=True)
    names = [route["dst"] for route in json.loads(answer.stdout or "[]")]
    return [ipaddress.IPv4Network("0.0.0.0/0" if name == "default" else name) for name in names]
