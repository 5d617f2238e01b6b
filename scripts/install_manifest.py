"""manifests/install.yaml, and what the chart holds copies of, from manifests/install and crds."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from vllm_operator.api.crd import crd_yaml

_SOURCES = Path(__file__).resolve().parent.parent / "manifests" / "install"
_HEADER = "# Generated from manifests/install and the models by `make crd`; do not edit.\n"
_SYSTEM = "namespace: vllm-operator-system\n"
_SERVED = "namespace: models\n"
_NAMESPACED_HEADER = (
    _HEADER
    + """# The operator within the one namespace that it serves, with rights there alone. It is called `models` here:
#   sed 's/namespace: models$/namespace: team-a/' manifests/install-namespaced.yaml | kubectl apply --filename=-
"""
)
_OWN_NAMESPACE = """          env:
            - name: VLLM_OPERATOR_NAMESPACE  # the one in which it runs
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
"""


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


def namespaced_yaml() -> str:
    """The same within one namespace, but for what concerns all of them."""
    documents = (
        _without_header(crd_yaml()),
        source("service-account"),
        _namespaced(source("cluster-role")) + "rules:\n" + textwrap.indent(_namespaced_rules(), "  "),
        _namespaced(source("cluster-role-binding")),
        source("lease-role"),
        source("configuration"),
        source("disruption-budget"),
        source("deployment").replace("          env:\n", _OWN_NAMESPACE),
    )
    return (_NAMESPACED_HEADER + "---\n".join(documents)).replace(_SYSTEM, _SERVED)


def _namespaced(text: str) -> str:
    """A ClusterRole, or what binds one, as a Role."""
    return text.replace("kind: ClusterRole", "kind: Role").replace("metadata:\n", f"metadata:\n  {_SERVED}", 1)


def _namespaced_rules() -> str:
    """The rules for what is in a namespace."""
    head, *rules = re.split(r"^(?=- )", source("rules"), flags=re.MULTILINE)
    return head + "".join(rule for rule in rules if "resources: [nodes]" not in rule)


def chart_user_roles() -> str:
    """The template of the roles for users, of which a cluster needs one copy however many operators it holds."""
    return "{{- if .Values.userRoles }}\n" + source("user-roles") + "{{- end }}\n"
