"""What can go wrong, sorted by what the control loop does about it."""

from __future__ import annotations

from dataclasses import dataclass


class OperatorError(Exception):
    """Base of every error that this project raises on purpose."""

    writes = 0  # objects that a pass had written before it ended so


class UsageError(OperatorError):
    """A command was called wrongly; the text is one sentence for the terminal, the exit code is 2."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec: which field, and a sentence that names the rule and the way out."""

    field: str
    sentence: str

    def __str__(self) -> str:
        """`field: sentence`, as a terminal or a condition shows it."""
        return f"{self.field}: {self.sentence}" if self.field else self.sentence


class InvalidSpec(OperatorError):  # noqa: N818 - reads as the condition's reason
    """The spec cannot be carried out as written; nothing is retried until it changes."""

    def __init__(self, problems: tuple[Problem, ...], reason: str = "InvalidSpec") -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
        self.reason = reason


class Blocked(OperatorError):  # noqa: N818
    """Somebody else has to act (quota, a foreign object of that name, missing rights); retried at leisure."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Transient(OperatorError):  # noqa: N818
    """The API server or the network failed in a way that passes; retried with back-off."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(Transient):
    """The object changed under us; retried at once, then with back-off."""


class Outdated(OperatorError):  # noqa: N818
    """A pass planned from something that has changed meanwhile, or went, or that it did not know of."""


class Gone(OperatorError):  # noqa: N818
    """The resource is not there any more; nothing is left to do."""


class NotLeading(OperatorError):  # noqa: N818
    """Another process may lead at this moment: nothing was sent, and nothing is wrong with what was to be written."""


class LeaseLost(OperatorError):  # noqa: N818
    """Another process leads, or may, for good: this one has to end."""
