"""Fixtures of the hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub.server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub of one test, without repositories."""
    with Hub() as running:
        yield running
