"""Where the harness keeps what it makes: always outside the repository."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parent
GO_MODULES = PACKAGE / "go"
MANIFESTS = PACKAGE / "manifests"


def cache_root() -> Path:
    """Return the cache folder: $VLLM_OPERATOR_CACHE, else vllm-operator in the user's cache folder."""
    explicit = os.environ.get("VLLM_OPERATOR_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vllm-operator"


def bin_root() -> Path:
    """Return the folder of built programs."""
    return cache_root() / "bin"


def run_root() -> Path:
    """Return the folder that holds one state folder per local cluster."""
    return cache_root() / "run"
