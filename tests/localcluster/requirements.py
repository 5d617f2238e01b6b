"""What a real node needs of this machine: Linux, root, and a few programs that distributions package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from localcluster.errors import LocalClusterError

# program -> Debian package
_PROGRAMS = {
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "lscpu": "util-linux",
    "busybox": "busybox-static",
}
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_CNI_PLUGINS = ("ptp", "host-local", "loopback")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_INSTANCES = 1024


class NodeUnavailableError(LocalClusterError):
    """A real node cannot run here; the text says what is missing."""


def ensure() -> None:
    """Check that a real node can run here, installing Debian packages that are missing.

    Raises:
        NodeUnavailableError: something is missing that cannot be installed.
    """
    if os.geteuid() != 0:
        raise NodeUnavailableError("a real node needs root: it mounts, and makes namespaces and control groups")
    missing = _missing()
    if missing and shutil.which("apt-get"):
        _install(sorted({package for _, package in missing}))
        missing = _missing()
    if missing:
        programs = ", ".join(program for program, _ in missing)
        packages = " ".join(sorted({package for _, package in missing}))
        raise NodeUnavailableError(f"a real node needs {programs}; install the packages {packages}")


def allow_watches() -> None:
    """Raise the number of inotify instances of a user to what a few nodes need; 128, a common value, is one node's."""
    current = int(_INOTIFY.read_text())
    if current < _INOTIFY_INSTANCES:
        _INOTIFY.write_text(str(_INOTIFY_INSTANCES))
        _say(f"raised fs.inotify.max_user_instances from {current} to {_INOTIFY_INSTANCES}, until the next boot")


def cni_folder() -> Path:
    """Return the folder that holds the CNI plugins."""
    return next(folder for folder in _CNI_FOLDERS if _has_plugins(folder))


def program(name: str) -> str:
    """Return the path of a program that `ensure` has checked."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise NodeUnavailableError(f"there is no {name} on {PATH}")
    return path


def _missing() -> list[tuple[str, str]]:
    found = [(name, package) for name, package in _PROGRAMS.items() if shutil.which(name, path=PATH) is None]
    if not any(_has_plugins(folder) for folder in _CNI_FOLDERS):
        found.append((f"the CNI plugins {', '.join(_CNI_PLUGINS)}", "containernetworking-plugins"))
    return found


def _has_plugins(folder: Path) -> bool:
    return all((folder / plugin).exists() for plugin in _CNI_PLUGINS)


def _install(packages: list[str]) -> None:
    _say(f"installing {' '.join(packages)}")
    install = ("install", "--yes", "--no-install-recommends", *packages)
    if not _apt_get(*install):
        _apt_get("update")
        _apt_get(*install)


def _apt_get(*arguments: str) -> bool:
    settings = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *arguments], capture_output=True, check=False, env=settings)
    return done.returncode == 0


def _say(text: str) -> None:
    print(f"localcluster: {text}", file=sys.stderr, flush=True)
