"""manifests/install.yaml, and what the chart holds copies of, from manifests/install and crds."""

from __future__ import annotations

import textwrap
from pathlib import Path

from vllm_operator.api.crd import crd_yaml

_SOURCES = Path(__file__).resolve().parent.parent / "manifests" / "install"
_HEADER = "# Generated from manifests/install and the models by `make crd`; do not edit.\n"


def source(name: str) -> str:
    """The text of one file of manifests/install, without its ending."""
    return (_SOURCES / f"{name}.yaml").read_text()


def _without_header(text: str) -> str:
    """The text without the lines that say where it was generated."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _role() -> str:
    """The operator's ClusterRole: its head, and the rules, which the chart shares."""
    return source("cluster-role") + "rules:\n" + textwrap.indent(source("rules"), "  ")


def install_yaml() -> str:
    """Everything that one `kubectl apply` installs, in the order in which it is needed."""
    documents = (
        source("namespace"),
        _without_header(crd_yaml()),
        source("service-account"),
        _role(),
        source("cluster-role-binding"),
        source("lease-role"),
        source("user-roles"),
        source("configuration"),
        source("disruption-budget"),
        source("deployment"),
    )
    return _HEADER + "---\n".join(documents)
