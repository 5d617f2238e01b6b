"""The control groups that the pods of one node live in, below a name of the cluster's own."""

import time
from collections.abc import Iterator
from pathlib import Path

from localcluster.errors import LocalClusterError

_REMOVAL_DEADLINE_SECONDS = 20.0
# What a group gets of the CPU, in times what one process beside it gets. On a node of its own the pods have most of it;
# here everything else, a dozen processes that are no group, would each get as much as all pods together.
_SHARE = 4
_SHARES = {"cpu.shares": 1024 * _SHARE, "cpu.weight": 100 * _SHARE}  # of versions 1 and 2


def create(name: str) -> None:
    """Make the group called `name` in every hierarchy; the kubelet asks for it to exist."""
    for root in _hierarchies():
        (root / name).mkdir(exist_ok=True)
        for file, value in _SHARES.items():
            if (root / name / file).exists():
                (root / name / file).write_text(str(value))


def remove(name: str) -> None:
    """Remove the group called `name` and all below it, once the last of its processes is gone.

    Raises:
        LocalClusterError: processes of it are still there.
    """
    deadline = time.monotonic() + _REMOVAL_DEADLINE_SECONDS
    for root in _hierarchies():
        while (root / name).exists():
            try:
                _remove_tree(root / name)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LocalClusterError(f"control group {root / name} cannot be removed: {error}") from error
                time.sleep(0.05)


def _remove_tree(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            _remove_tree(child)
    folder.rmdir()


def _hierarchies() -> Iterator[Path]:
    """Yield where control groups are mounted: one place with version 2, one for each controller with version 1."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(target)
