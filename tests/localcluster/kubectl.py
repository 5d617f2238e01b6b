"""The real kubectl, bound to one cluster and, if wished, one namespace."""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localcluster.errors import LocalClusterError

CONTEXT_PREFIXES = ("vllm-operator-local-", "kind-")

Documents = str | Mapping[str, Any] | Iterable[Mapping[str, Any]]


class KubectlError(LocalClusterError):
    """kubectl ended with an error; `stderr` and `returncode` are its own."""

    def __init__(self, command: list[str], completed: subprocess.CompletedProcess[str]) -> None:
        self.returncode = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr
        super().__init__(f"kubectl {' '.join(command)} ended with {self.returncode}: {self.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl against one cluster: `kubectl("get", "pods")`."""

    program: Path
    kubeconfig: Path
    context: str
    home: Path
    namespace: str | None = None

    def __post_init__(self) -> None:
        if not self.context.startswith(CONTEXT_PREFIXES):
            prefixes = " or ".join(f"{prefix}*" for prefix in CONTEXT_PREFIXES)
            raise LocalClusterError(f"context {self.context!r} is not a throw-away cluster; only {prefixes} is touched")

    def in_namespace(self, namespace: str) -> "Kubectl":
        """Return a kubectl whose default namespace is `namespace`."""
        return replace(self, namespace=namespace)

    def with_kubeconfig(self, kubeconfig: Path) -> "Kubectl":
        """Return a kubectl that speaks as the user of another kubeconfig of the same cluster."""
        return replace(self, kubeconfig=kubeconfig)

    def __call__(
        self,
        *arguments: str,
        check: bool = True,
        input: Documents | None = None,  # noqa: A002 - the name that subprocess.run has
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl and return what it answered.

        Args:
            arguments: subcommand and options.
            check: raise when kubectl ends with an error.
            input: text, a manifest or manifests for stdin (use it with `-f -`).
            timeout: seconds until giving up.

        Raises:
            KubectlError: kubectl ended with an error and `check` is set.
            subprocess.TimeoutExpired: it did not end in time.
        """
        completed = subprocess.run(
            [*self.command(), *arguments],
            input=None if input is None else _text(input),
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment(),
        )
        if check and completed.returncode != 0:
            raise KubectlError(list(arguments), completed)
        return completed

    def command(self) -> list[str]:
        """Return the start of every command line: the program and the options that bind it to the cluster."""
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}"]
        # Ports are used again by later clusters, so discovery must not be cached in the user's shared folder.
        command.append(f"--cache-dir={self.home / 'kubectl-cache'}")
        return [*command, f"--namespace={self.namespace}"] if self.namespace else command

    def environment(self) -> dict[str, str]:
        """Return the environment for kubectl: this process's, without the user's preferences for kubectl."""
        return os.environ | {"HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig), "KUBERC": "off"}

    def json(self, *arguments: str, timeout: float = 60.0) -> Any:  # noqa: ANN401 - any Kubernetes object
        """Run kubectl with `-o json` and return the decoded answer."""
        return json.loads(self(*arguments, "--output=json", timeout=timeout).stdout)

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `kubectl get ARGUMENTS` for a list and return its items."""
        items: list[dict[str, Any]] | None = self.json("get", *arguments)["items"]
        return items or []

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return one object, or None where it does not exist."""
        answer = self("get", kind, name, "--ignore-not-found", "--output=json").stdout
        found: dict[str, Any] | None = json.loads(answer) if answer.strip() else None
        return found

    def apply(self, documents: Documents, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `kubectl apply -f -` on a text, a manifest or manifests."""
        return self("apply", "--filename=-", *arguments, input=documents)


def _text(documents: Documents) -> str:
    if isinstance(documents, str):
        return documents
    items = [documents] if isinstance(documents, Mapping) else list(documents)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
