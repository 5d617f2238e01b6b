"""What goes wrong in the harness, as sentences for the person who ran the command."""

from pathlib import Path

_LOG_LINES = 15


class LocalClusterError(Exception):
    """A local cluster could not be built, started or reached; the text says what to do."""

    @property
    def taken(self) -> bool:
        """Whether somebody else took a port or an address between its choice and its use."""
        return False


class LinkTakenError(LocalClusterError):
    """Another cluster chose the same addresses at the same time, and laid its link first."""

    @property
    def taken(self) -> bool:
        return True


class ComponentError(LocalClusterError):
    """A component ended or did not become ready; the text holds its last log lines."""

    def __init__(self, name: str, problem: str, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        self.log_tail = "\n".join(lines[-_LOG_LINES:])
        super().__init__(f"{name} {problem}; its last log lines:\n{self.log_tail}")

    @property
    def taken(self) -> bool:
        return "address already in use" in self.log_tail
