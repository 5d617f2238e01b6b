"""The operator as it runs in production, but as a process of this machine: `python -m vllm_operator run` under the
service account of manifests/install.yaml, with the rights of that file and no others."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from localcluster import deathsig, probe
from localcluster.kubectl import Kubectl
from localcluster.paths import cache_root
from localcluster.wait import wait_for

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = str(ROOT / "operator")
INSTALL = ROOT / "manifests" / "install.yaml"
NAMESPACE = "vllm-operator-system"
ACCOUNT = "vllm-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

_READY_SECONDS = 60.0
_STOP_SECONDS = 40.0
# Below the range that the kernel takes for outgoing connections, beside that of the local clusters.
_PORTS = range(30000, 32000)


def manifests() -> list[dict[str, Any]]:
    """Return every object of install.yaml."""
    return list(yaml.load_all(INSTALL.read_text(), yaml.CSafeLoader))


def install(kubectl: Kubectl) -> None:
    """Apply install.yaml but for the Deployment, whose part a process plays, and wait until it is in force."""
    objects = [one for one in manifests() if one["kind"] != "Deployment"]
    kubectl = replace(kubectl, namespace=None)
    kubectl.apply(objects, "--server-side", "--force-conflicts")
    kubectl("wait", "--for=condition=Established", "crd/vllmdeployments.vllm-operator.dev", "--timeout=30s")
    wait_for(lambda: _may(kubectl, "list", "nodes"), message=f"{USER} may do what its ClusterRole says")


def _may(kubectl: Kubectl, verb: str, resource: str) -> bool:
    return kubectl("auth", "can-i", verb, resource, f"--as={USER}", check=False).returncode == 0


def free_port() -> int:
    """Return a TCP port on which nobody listens."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def environment(kubeconfig: Path, port: int, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the operator's whole environment; `settings` are fields of its configuration, as `log_level`."""
    fields = {"kubeconfig": str(kubeconfig), "health_port": str(port), "log_format": "text", **(settings or {})}
    own = {f"VLLM_OPERATOR_{name.upper()}": value for name, value in fields.items()}
    return {"PATH": os.defpath, "PYTHONUNBUFFERED": "1", **python_environment(), **own}


def python_environment() -> dict[str, str]:
    """Return where a Python process finds the package, and where it keeps byte code: not in the source tree."""
    return {"PYTHONPATH": PACKAGES, "PYTHONPYCACHEPREFIX": str(cache_root() / "pycache")}


COMMAND = (sys.executable, "-m", "vllm_operator", "run")


class OperatorProcess:
    """One operator at a time, started, stopped and killed at will; it ends with the thread that started it."""

    def __init__(
        self, kubeconfig: Path, log: Path, settings: Mapping[str, str] | None = None, packages: str = PACKAGES
    ) -> None:
        self._kubeconfig = kubeconfig
        self._settings = settings
        self._packages = packages  # the folder that holds the package: another release lies elsewhere
        self._process: subprocess.Popen[bytes] | None = None
        self.log = log
        self.port = free_port()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process, or the last one that ran."""
        assert self._process is not None, "the operator was never started"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs, without waiting."""
        if self.alive:
            return
        wrapper = [sys.executable, "-I", "-S", deathsig.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *COMMAND],
                env={**environment(self._kubeconfig, self.port, self._settings), "PYTHONPATH": self._packages},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it says on /readyz that it works.

        Raises:
            AssertionError: it has ended instead; the text holds its last log lines.
            TimeoutError: it did neither in time.
        """
        wait_for(self._is_ready, _READY_SECONDS, f"the operator is ready; its log is {self.log}")
        assert self.alive, f"the operator ended with {self.process.returncode}:\n{self.tail()}"

    def _is_ready(self) -> bool:
        return not self.alive or probe.status_of(f"http://127.0.0.1:{self.port}/readyz") == 200

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"the operator did not end {_STOP_SECONDS:g} s after SIGTERM:\n{self.tail()}"
            ) from None

    def kill(self) -> None:
        """End it as a crash of its node would (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """End it as a crash would, start it again and wait until it is ready."""
        self.kill()
        self.start()
        self.wait_ready()

    def mark(self) -> int:
        """Return the present end of its log, for `tail(since=...)`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self, since: int = 0, lines: int = 60) -> str:
        """Return the last lines of its log, at most those after the mark `since`."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_bytes()[since:].decode(errors="replace").splitlines()[-lines:])
