"""Which vLLM an image holds, as far as its tag tells."""

from __future__ import annotations

import re

DEFAULT_VERSION = "0.32"


def engine_version(image: str) -> str:
    """`major.minor` of vLLM from an image tag such as `v0.32.0` or `0.31.1-cu130`; the default when it says nothing."""
    tag = image.partition("@")[0].rpartition(":")[2]
    match = re.match(r"v?(\d+\.\d+)(?:\.\d+)?(?:$|[-+.])", tag)
    return match.group(1) if match else DEFAULT_VERSION
