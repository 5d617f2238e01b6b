"""JSON of strangers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LARGEST = 2**26
"""Bytes of the largest JSON file that is read; an index of a thousand shards has a tenth of it."""


def check_size(size: int) -> None:
    """Raises ValueError for a file that is too large to be read."""
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes, more than {LARGEST}")


def parse_object(content: bytes) -> Mapping[str, Any]:
    """A JSON object. Raises ValueError, with the rest of a sentence on the file, for anything else."""
    check_size(len(content))
    try:
        parsed = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - callers catch one exception
    return parsed
