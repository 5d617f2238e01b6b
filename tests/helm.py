"""The real helm, bound to one throw-away cluster."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from localcluster import build
from localcluster.kubectl import Kubectl

CHART = Path(__file__).resolve().parents[1] / "charts" / "vllm-operator"


@dataclass(frozen=True, slots=True)
class Helm:
    """Runs helm as the administrator of a cluster, in one namespace."""

    kubectl: Kubectl
    namespace: str

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run helm and return what it printed; with `check` unset also what it complained about.

        Raises:
            AssertionError: helm ended with an error and `check` is set.
        """
        options = ("--kube-context", self.kubectl.context, "--namespace", self.namespace)
        completed = subprocess.run(
            [str(build.ensure(["helm"])["helm"]), *arguments, *options],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            # Its caches and settings stay in the cluster's folder; the user's plugins are not loaded.
            env=self.kubectl.environment() | {"XDG_CACHE_HOME": str(self.kubectl.home / "helm")},
        )
        if not check:
            return completed.stdout + completed.stderr
        assert completed.returncode == 0, f"helm {' '.join(arguments)}: {completed.stderr}"
        return completed.stdout
