"""Processes of the demo that outlive it, found again by a later run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import processes
from localcluster.processes import Process

_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Background:
    """One process, by the files that it leaves in the cluster's folder."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    def stop(self) -> None:
        """End the process that an earlier run started, if there is one."""
        if self.record.exists():
            Process(**json.loads(self.record.read_text())).kill()
            self.record.unlink()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start this Python with arguments, in the place of what an earlier run started."""
        self.stop()
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        self.log.unlink(missing_ok=True)
        command = ["/usr/bin/env", *variables, sys.executable, *arguments]
        process = processes.spawn(command, self.log, self.folder, die_with_parent=False)
        self.record.write_text(json.dumps(dataclasses.asdict(process)))
        return process

    def tail(self) -> str:
        """The end of its log, as the end of a sentence."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f" the end of {self.log}:\n" + "\n".join(lines[-_LOG_LINES:])
