"""Server-sent events of an HTTP answer, as they arrive (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

DONE = "[DONE]"
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)


@contextmanager
def posted(url: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
    """POST a request whose answer is a stream and yield the data of its events, each when it comes.

    Raises:
        AssertionError: the answer is none of events.
        httpx.HTTPError: the connection ended early.
    """
    with httpx.stream("POST", url, json=dict(body), timeout=_TIMEOUT) as answer:
        if answer.status_code != httpx.codes.OK:
            raise AssertionError(f"{answer.status_code} {answer.read().decode()}")
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
        yield (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))


def chunks(url: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """POST a request, read the stream to its end, `[DONE]`, and return its decoded events."""
    with posted(url, body) as events:
        *found, last = events
    assert last == DONE, f"the stream ends with {last!r}"
    return [json.loads(one) for one in found]
