"""What the operator looks at."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.kinds import Kind


@dataclass(frozen=True, slots=True)
class Scope:
    """Which namespaces (none: all of them), which kinds of children, and whether the nodes."""

    namespaces: tuple[str, ...] = ()
    children: tuple[Kind, ...] = ()
    nodes: bool = True

    @property
    def places(self) -> tuple[str | None, ...]:
        """Where to list: each namespace, or None for all of them at once."""
        return self.namespaces or (None,)

    def __str__(self) -> str:
        """The namespaces, as a sentence names them."""
        if not self.namespaces:
            return "all namespaces"
        return ("namespace " if len(self.namespaces) == 1 else "namespaces ") + ", ".join(self.namespaces)
