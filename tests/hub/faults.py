"""What can be wrong with a hub or the way to it, on demand."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Applies to requests whose `METHOD /path?query` holds the expression `path`, `times` times (None: always).

    status: this answer instead of the true one. after: the connection ends after so many bytes of the body.
    damaged: the bytes of the body are not the file's. rate: bytes a second. no_ranges: a range is answered in full.
    held: the answer waits until `release` is called; with `after`, in the middle of the body.
    """

    path: str
    times: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None
    damaged: bool = False
    rate: int | None = None
    no_ranges: bool = False
    held: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def matches(self, method: str, path: str) -> bool:
        """Whether it applies to the request."""
        return self.times != 0 and re.search(self.path, f"{method} {path}") is not None

    def wait(self) -> None:
        """Hold the request; `reached` says that one is held."""
        self.reached.set()
        self.released.wait()

    def release(self) -> None:
        """Let requests go on that it holds."""
        self.released.set()


class Faults:
    """The faults that are set, oldest first."""

    def __init__(self) -> None:
        self._set: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Set one."""
        with self._lock:
            self._set.append(fault)
        return fault

    def clear(self) -> None:
        """Heal everything, and let go of what waits."""
        with self._lock:
            for fault in self._set:
                fault.release()
            self._set.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of this request, counted."""
        with self._lock:
            fault = next((fault for fault in self._set if fault.matches(method, path)), None)
            if fault and fault.times is not None:
                fault.times -= 1
            return fault
