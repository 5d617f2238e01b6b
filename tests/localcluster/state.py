"""What a local cluster writes down: its folder, its ports, its processes; and the locks around that."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import random
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcluster import cgroups
from localcluster.errors import LocalClusterError
from localcluster.network import Network, free_slot
from localcluster.paths import run_root
from localcluster.processes import Process

PORT_NAMES = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
# Below the range that the kernel takes for outgoing connections, so that none of those sits on a chosen port.
_PORT_RANGE = range(20000, 30000)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_LOCK_DEADLINE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster below its state folder."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def context(self) -> str:
        """The name of the kubeconfig's context; nothing else is called so."""
        return f"vllm-operator-local-{self.name}"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def node(self) -> Path:
        """The folder of the real node's programs."""
        return self.root / "node"

    @property
    def cgroup(self) -> str:
        """The name of the control group of the real node's pods, no other cluster's on this machine."""
        return f"vllm-operator-{self.name}-{hashlib.sha256(str(self.root).encode()).hexdigest()[:8]}"

    @property
    def audit_log(self) -> Path:
        return self.root / "audit.log"

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    def log(self, component: str) -> Path:
        return self.root / "log" / f"{component}.log"

    def component_kubeconfig(self, user: str) -> Path:
        return self.root / f"{user.removeprefix('system:')}.kubeconfig"


@dataclass(slots=True)
class State:
    """The record of one cluster: who owns it, on which ports and as which processes it runs."""

    owner: Process
    ports: dict[str, int]
    # True while `owner` starts it, and for good when it must not outlive its owner.
    bound_to_owner: bool
    # Everything was ready once.
    started: bool = False
    processes: dict[str, Process] = field(default_factory=dict)
    ready_seconds: dict[str, float] = field(default_factory=dict)
    # The address block of a cluster with a real node (see network.Network).
    slot: int | None = None

    @property
    def network(self) -> Network | None:
        """The addresses of a cluster with a real node; None for one without."""
        return None if self.slot is None else Network(self.slot)

    @property
    def abandoned(self) -> bool:
        """Whether the owner that this cluster is bound to is gone."""
        return self.bound_to_owner and not self.owner.alive

    def save(self, layout: Layout) -> None:
        """Write the record; a reader sees the old one or the new one, never a part."""
        partial = layout.state_file.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        partial.rename(layout.state_file)


def layout_of(name: str) -> Layout:
    """Return the layout of the cluster called `name`.

    Raises:
        LocalClusterError: the name cannot be part of a file name and a context name.
    """
    if not _NAME.fullmatch(name):
        raise LocalClusterError(f"cluster name {name!r}: use 1 to 40 lower-case letters, digits and inner dashes")
    return Layout(run_root() / name)


def load(layout: Layout) -> State | None:
    """Return the record of a cluster, or None where there is none."""
    try:
        data: dict[str, Any] = json.loads(layout.state_file.read_text())
    except FileNotFoundError:
        return None
    processes = {name: Process(**process) for name, process in data.pop("processes").items()}
    return State(owner=Process(**data.pop("owner")), processes=processes, **data)


def all_layouts() -> list[Layout]:
    """Return the layouts of all clusters of this user, running or not."""
    if not run_root().exists():
        return []
    return [Layout(path.parent) for path in sorted(run_root().glob("*/state.json"))]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock called `name` (a cluster's, or the allocation of ports).

    Raises:
        LocalClusterError: another process has held it for too long.
    """
    run_root().mkdir(parents=True, exist_ok=True)
    path = run_root() / f".{name}.lock"
    deadline = time.monotonic() + _LOCK_DEADLINE_SECONDS
    with path.open("w") as handle:
        while not _try_lock(handle.fileno()):
            if time.monotonic() > deadline:
                raise LocalClusterError(f"another process holds {path} for over {_LOCK_DEADLINE_SECONDS:g} s")
            time.sleep(0.05)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claim(layout: Layout, owner: Process, *, bound_to_owner: bool, real_node: bool = False) -> State:
    """Make the state folder with a record of ports and addresses that no other local cluster has or will take."""
    with locked("ports"):
        others = [state for other in all_layouts() if (state := load(other))]
        taken = {port for state in others for port in state.ports.values()}
        slot = free_slot([state.slot for state in others if state.slot is not None]) if real_node else None
        state = State(owner=owner, ports=_free_ports(taken), bound_to_owner=bound_to_owner, slot=slot)
        (layout.root / "log").mkdir(parents=True, mode=0o700)
        state.save(layout)
    return state


def _free_ports(taken: set[int]) -> dict[str, int]:
    candidates = (port for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)) if port not in taken and _free(port))
    ports = dict(zip(PORT_NAMES, candidates, strict=False))
    if len(ports) < len(PORT_NAMES):
        raise LocalClusterError(f"no {len(PORT_NAMES)} free ports between {_PORT_RANGE.start} and {_PORT_RANGE.stop}")
    return ports


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def wipe(layout: Layout) -> None:
    """End every recorded process of a cluster, then remove its folder; harmless where there is none."""
    state = load(layout)
    if state is not None:
        # kwok and the controllers first, etcd last: nothing then logs about a peer that went before it.
        for process in reversed(state.processes.values()):
            process.kill()
        if state.slot is not None:
            cgroups.remove(layout.cgroup)
    shutil.rmtree(layout.root, ignore_errors=True)
    if layout.root.exists():
        raise LocalClusterError(f"{layout.root} cannot be removed; remove it by hand")


def sweep() -> None:
    """Wipe the clusters whose owners were killed."""
    for layout in all_layouts():
        if _is_abandoned(layout):
            with locked(layout.name):
                # Looked at again: somebody may have swept it meanwhile, and started another one of that name.
                if _is_abandoned(layout):
                    wipe(layout)


def _is_abandoned(layout: Layout) -> bool:
    state = load(layout)
    return state is not None and state.abandoned
