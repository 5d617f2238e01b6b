"""What is kept of the resources: the newest state that was seen, and nothing of one that is in doubt."""

from __future__ import annotations

from typing import Any

from vllm_operator.naming import Key
from vllm_operator.resources import Resources

KEY = Key("team-a", "chat")


def body(version: int, **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of metadata
    return {"metadata": {"resourceVersion": str(version), **metadata}, "spec": {"text": "é\n"}}


def test_the_newest_state_counts() -> None:
    seen = Resources()
    assert seen.is_news(KEY, 1)
    assert seen.body(KEY) is None
    for version in (5, 4):
        seen.see(KEY, body(version))
    assert seen.body(KEY) == body(5)
    assert [seen.is_news(KEY, version) for version in (4, 5, 6)] == [False, False, True]


def test_managed_fields_are_not_kept() -> None:
    seen = Resources()
    seen.see(KEY, body(1, managedFields=[{"manager": "kubectl"}]))
    assert seen.body(KEY) == body(1)


def test_what_is_in_doubt_is_asked_for_and_is_no_news() -> None:
    seen = Resources()
    seen.doubt(KEY)
    seen.see(KEY, body(5))
    seen.doubt(KEY)
    assert seen.body(KEY) is None
    assert not seen.is_news(KEY, 5)
    seen.see(KEY, body(5))
    assert seen.body(KEY) == body(5)


def test_what_is_gone_is_forgotten() -> None:
    seen = Resources()
    seen.see(KEY, body(5))
    assert list(seen) == [KEY]
    for key in seen:
        seen.forget(key)
    assert list(seen) == []
    assert seen.is_news(KEY, 1)
