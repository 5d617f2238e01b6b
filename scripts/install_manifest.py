"""Assembles manifests/install.yaml, and what the chart holds copies of, from their sources.

Run with --check it writes nothing and fails when a file is not what its sources say.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ROOT / "manifests" / "install"
_CRD = ROOT / "crds" / "vllmdeployments.yaml"
_CHART = ROOT / "charts" / "vllm-operator"
_HEADER = "# Generated from manifests/install and crds by `make crd`; do not edit.\n"


def _without_header(crd: str) -> str:
    """The CRD without the line that says where it was generated."""
    return "".join(line for line in crd.splitlines(keepends=True) if not line.startswith("#"))


def _install() -> str:
    """Everything that one `kubectl apply` installs, in the order in which it is needed."""
    source = {path.stem: path.read_text() for path in _SOURCES.glob("*.yaml")}
    role = source["cluster-role"] + "rules:\n" + textwrap.indent(source["rules"], "  ")
    documents = [
        source["namespace"],
        _without_header(_CRD.read_text()),
        source["service-account"],
        role,
        source["cluster-role-binding"],
        source["user-roles"],
        source["deployment"],
    ]
    return _HEADER + "---\n".join(documents)


def files() -> Mapping[Path, str]:
    """What each generated file should hold."""
    return {
        ROOT / "manifests" / "install.yaml": _install(),
        _CHART / "crds" / _CRD.name: _CRD.read_text(),
        _CHART / "files" / "rules.yaml": (_SOURCES / "rules.yaml").read_text(),
        _CHART / "templates" / "user-roles.yaml": (_SOURCES / "user-roles.yaml").read_text(),
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with --check name those that differ; 1 when there are any."""
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what its sources say: run `make crd`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
