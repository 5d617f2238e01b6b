"""Which vLLM an image holds, as far as its tag tells."""

from __future__ import annotations

import re

DEFAULT_VERSION = "0.32"


def stated_version(image: str) -> str | None:
    """`major.minor` of vLLM from an image tag such as `v0.32.0` or `0.31.1-cu130`; None when it says nothing.

    Tags of others count years, such as 25.09: no vLLM has such a version.
    """
    tag = image.partition("@")[0].rpartition(":")[2]
    match = re.match(r"v?(\d\.\d+)(?:\.\d+)?(?:$|[-+.])", tag)
    return match.group(1) if match else None


def engine_version(image: str) -> str:
    """`major.minor` of vLLM from an image tag; the default when it says nothing."""
    return stated_version(image) or DEFAULT_VERSION
