"""Every state that the pods of a namespace go through, also of those that are gone at the end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.kubectl import Kubectl
from localcluster.processes import deathsig_command

_COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Watched:
    """What `kubectl get pods --watch` has written so far."""

    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    @property
    def pods(self) -> list[dict[str, Any]]:
        """Each state of each pod, in the order in which they came."""
        text, found = self.text.strip(), []
        while text:
            try:
                pod, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:  # the last one is still being written
                break
            found.append(pod)
            text = text[end:].lstrip()
        return found

    def of(self, component: str) -> list[dict[str, Any]]:
        """The states of the pods of one component: inspect, preload or server."""
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(_COMPONENT) == component]


@contextmanager
def watched(kubectl: Kubectl, output: Path) -> Iterator[Watched]:
    """Watch the pods of the namespace of `kubectl` and write what they are to the file `output`."""
    command = [*deathsig_command(), *kubectl.command(), "get", "pods", "--watch", "--output=json"]
    with (
        output.open("wb") as stream,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, env=kubectl.environment()) as process,
    ):
        yield Watched(output)
        process.terminate()
