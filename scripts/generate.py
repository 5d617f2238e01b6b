"""Write the files that are generated from the package, or check that they are what it generates now.

python scripts/generate.py [--check]
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import failures
import install_manifest
import metrics
import readme
import settings
from vllm_operator.api import reference

ROOT = Path(__file__).resolve().parent.parent
_DIFF_LINES = 20


@dataclass(frozen=True, slots=True)
class Generated:
    """A file, relative to the repository's root, and what makes its text."""

    path: str
    make: Callable[[], str]


_CHART = "charts/vllm-operator"
FILES = (
    Generated("docs/reference.md", reference.markdown),
    Generated("README.md", readme.readme),
    Generated("docs/status.md", failures.status_page),
    Generated("docs/configuration.md", settings.configuration_page),
    Generated("docs/telemetry.md", metrics.telemetry_page),
    Generated("manifests/install.yaml", install_manifest.install_yaml),
    Generated("manifests/install-namespaced.yaml", install_manifest.namespaced_yaml),
    Generated(f"{_CHART}/files/rules.yaml", partial(install_manifest.source, "rules")),
    Generated(f"{_CHART}/templates/user-roles.yaml", install_manifest.chart_user_roles),
)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Exit code 0, or 1 when `--check` finds a file that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    check: bool = parser.parse_args(arguments).check
    stale = [file for file in FILES if _settle(root / file.path, file.make(), check=check)]
    if check and stale:
        print(f"stale: {', '.join(file.path for file in stale)}; run `make crd` and commit the result", file=sys.stderr)
        return 1
    return 0


def _settle(path: Path, wanted: str, *, check: bool) -> bool:
    """Write `wanted`, or show how the file differs from it; whether it differed."""
    found = path.read_text() if path.exists() else ""
    if found == wanted:
        return False
    if check:
        lines = difflib.unified_diff(found.splitlines(), wanted.splitlines(), str(path), "generated", lineterm="", n=1)
        print("\n".join(list(lines)[:_DIFF_LINES]), file=sys.stderr)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted)
        print(f"wrote {path}")
    return True


if __name__ == "__main__":
    sys.exit(main())
