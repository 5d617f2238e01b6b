"""The report of a fetch: what is written is read back, and nothing that a pod can say gets through as one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_operator.report import (
    LIMIT,
    Failed,
    Fetched,
    Inspected,
    Progress,
    Reason,
    Report,
    ReportError,
    parse_progress,
    parse_report,
    progress_line,
    render_report,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCALARS = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner), max_leaves=9
)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (Fetched(COMMIT, 12), f'{{"version":1,"commit":"{COMMIT}","bytes":12}}'),
        (
            Inspected("", {"hidden_size": 64}, 7),
            '{"version":1,"commit":"","config":{"hidden_size":64},"weightBytes":7}',
        ),
        (
            Failed(Reason.GATED, "org/name is gated."),
            '{"version":1,"error":{"reason":"ModelGated","message":"org/name is gated."}}',
        ),
    ],
)
def test_each_report_is_written_and_read_back(report: Report, text: str) -> None:
    assert render_report(report) == text
    assert parse_report(text) == report


@given(st.sampled_from(Reason), st.text(max_size=3000))
def test_every_failure_fits_on_one_line_and_comes_back(reason: Reason, message: str) -> None:
    text = render_report(Failed(reason, message))
    assert len(text.encode()) <= LIMIT
    assert "\n" not in text
    read = parse_report(text)
    assert isinstance(read, Failed)
    assert read.reason is reason
    assert read.message.isprintable()


def test_a_config_too_long_as_it_is_goes_packed() -> None:
    config = {"layer_types": ["full_attention", "sliding_attention"] * 900, "hidden_size": 64}
    text = render_report(Inspected(COMMIT, config, 5))
    assert len(text.encode()) <= LIMIT
    assert parse_report(text) == Inspected(COMMIT, config, 5)


def test_a_config_that_cannot_be_made_to_fit_is_said_so() -> None:
    config = {"ignore": [f"{number * 7919 % 999983:x}" for number in range(4000)]}
    with pytest.raises(ReportError, match=r"room for 4096"):
        render_report(Inspected(COMMIT, config, 5))


def packed(content: bytes) -> str:
    import base64  # noqa: PLC0415
    import lzma  # noqa: PLC0415

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**17}]
    return "lzma:" + base64.b85encode(lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters)).decode()


def inspected(config: object) -> str:
    return json.dumps({"version": 1, "commit": COMMIT, "config": config, "weightBytes": 1})


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "fetched 1.2 of 15.3 GiB (8 %)",
        "[]",
        "{}",
        "null",
        "[" * 4000,
        '{"version":1}',
        '{"version":true,"commit":"","bytes":1}',
        '{"version":2,"commit":"' + COMMIT + '","bytes":1}',
        '{"version":1,"commit":"","bytes":1}',
        '{"version":1,"commit":"main","bytes":1}',
        '{"version":1,"commit":"' + COMMIT + '\\n","bytes":1}',
        '{"version":1,"commit":"' + COMMIT + '","bytes":-1}',
        '{"version":1,"commit":"' + COMMIT + '","bytes":1.0}',
        '{"version":1,"commit":"' + COMMIT + '","bytes":true}',
        '{"version":1,"commit":"' + COMMIT + '","bytes":NaN}',
        '{"version":1,"commit":"' + COMMIT + '","bytes":1' + "0" * 30 + "}",
        '{"version":1,"commit":"' + COMMIT + '","bytes":1' + " " * 5000 + "}",
        '{"version":1,"commit":"","config":{"a":-9223372036854775809},"weightBytes":1}',
        '{"version":1,"error":"broken"}',
        '{"version":1,"error":{"reason":"Nonsense","message":"x"}}',
        '{"version":1,"error":{"reason":["ModelGated"],"message":"x"}}',
        '{"version":1,"error":{"reason":"ModelGated"}}',
        inspected([]),
        inspected("hidden_size"),
        inspected("lzma:"),
        inspected("lzma:not base 85 \u00e9"),
        inspected(packed(b"[1]")),
        inspected(packed(b"\xff\xfe")),
        inspected(packed(b'{"a":"' + b"a" * 2**20 + b'"}')),
        inspected(packed(b'{"a":1e999}')),
        inspected(packed(b"[" * 100_000)),
        inspected(packed(b'{"hidden_size":64}')[:-4]),
        '{"version":1,"commit":"' + COMMIT + '","config":{"a":1e999},"weightBytes":1}',
        '{"version":1,"commit":"' + COMMIT + '","config":{"a":"\\ud800"},"weightBytes":1}',
    ],
)
def test_what_is_odd_is_no_report(text: str | None) -> None:
    with pytest.raises(ReportError):
        parse_report(text)


@given(st.dictionaries(st.sampled_from(["version", "commit", "bytes", "config", "weightBytes", "error"]), JSON), JSON)
def test_whatever_a_pod_writes_is_a_report_or_refused(body: dict[str, Any], error: object) -> None:
    for content in (body, {**body, "version": 1}, {**body, "version": 1, "error": error}):
        try:
            report = parse_report(json.dumps(content))
        except ReportError:
            continue
        assert parse_report(render_report(report)) == report


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        parse_report(text)
    except ReportError:
        return
    pytest.fail("random text was taken for a report")


GIB = 2**30


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (int(1.2 * GIB), int(15.3 * GIB), "fetched 1.2 of 15.3 GiB (8 %)"),
        (0, 0, "fetched 0.0 of 0.0 GiB (100 %)"),
        (100 * GIB - 1, 100 * GIB, "fetched 100.0 of 100.0 GiB (99 %)"),
        (GIB, GIB, "fetched 1.0 of 1.0 GiB (100 %)"),
    ],
)
def test_progress_is_said_on_a_line_that_is_read_back(done: int, total: int, line: str) -> None:
    assert progress_line(done, total) == line
    assert parse_progress(f"starting\n{line}\n\n") is not None


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", None),
        ("fetched all of it", None),
        ("fetched 9999999999.0 of 1.0 GiB (1 %)", None),
        ("fetched 1.0 of 2.0 GiB (101 %)", None),
        ("xfetched 1.0 of 2.0 GiB (50 %)", None),
        ("fetched 1.0 of 2.0 GiB (50 %)\nfetched 1.5 of 2.0 GiB (75 %)\nwarning: slow", Progress(1.5, 2.0, 75)),
    ],
)
def test_the_last_progress_of_a_log_is_found(log: str, progress: Progress | None) -> None:
    assert parse_progress(log) == progress
