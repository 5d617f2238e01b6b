"""What differs between minor versions of vLLM, as far as sizing goes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineTerms:
    """Which terms a version charges to the memory that `gpu_memory_utilization` grants, and which rules it has."""

    minor: int
    two_runners: bool = False  # plain dense models run on another model runner than the rest
    charges_sampler: bool = True  # sampler state of the newer runner counts as consumed
    estimates_graphs: bool = True  # the newer runner estimates CUDA graphs
    keeps_in_flight: bool = True  # sliding windows count every batch in flight, not one
    caches_hybrid_prefixes: bool = True  # prefix caching is on by default where layers keep states
    refines_fp8_experts: bool = True  # FP8 blocks of experts may be cut down to 32
    multiplies_yarn: bool = False  # the length of a YaRN model is its original length times the factor


LATEST = 32
"""The minor version that the rules were read from."""

_VERSION = re.compile(r"v?0\.(\d+)(?:\D.*)?")


def terms_of(version: str) -> EngineTerms:
    """Terms of a vLLM version such as "0.32", "0.25.1" or "v0.31.0"; the latest known ones for what is no version.

    0.25 and 0.32 were read in source and measured; the versions between them are taken to change at 0.31, the first one
    whose published logs show the sampler's state charged. The length of YaRN models changes at 0.30: 0.29 to 0.32 were
    read.
    """
    found = _VERSION.fullmatch(version.strip())
    minor = int(found.group(1)) if found else LATEST
    if minor >= 31:  # noqa: PLR2004 - the first minor with one runner, see above
        return EngineTerms(minor)
    return EngineTerms(
        minor,
        two_runners=True,
        charges_sampler=False,
        estimates_graphs=False,
        keeps_in_flight=False,
        caches_hybrid_prefixes=False,
        refines_fp8_experts=False,
        multiplies_yarn=minor < 30,  # noqa: PLR2004 - see above
    )
