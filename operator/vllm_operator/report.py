"""What `vllm-operator fetch` reports: one JSON object in the container's termination message, and a line of progress.

The command writes both, the operator reads both back from a pod that it does not trust: whatever is odd is refused.
"""

from __future__ import annotations

import base64
import json
import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

VERSION = 1

LIMIT = 4096
"""Bytes of a termination message that the kubelet keeps (Kubernetes: Determine the Reason for Pod Failure)."""

MESSAGE_LIMIT = 900
"""Characters of a failure's sentence: at four bytes each they still fit beside the rest."""

CONFIG_LIMIT = 2**17
"""Bytes that a packed config may unfold to: the longest known, of a mixed NVFP4 checkpoint, has 56 thousand."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST = 2**63 - 1
_PACKED = "lzma:"
_FILTERS = ({"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": CONFIG_LIMIT},)


class Reason(StrEnum):
    """Why a fetch failed, as the condition of the resource names it."""

    GATED = "ModelGated"
    TOKEN = "TokenRefused"  # noqa: S105 - a reason, not a token
    MODEL = "ModelNotFound"
    REVISION = "RevisionNotFound"
    SPACE = "NoSpace"
    WEIGHTS = "WeightsMissing"
    CONFIG_MISSING = "ConfigMissing"
    CONFIG_UNREADABLE = "ConfigUnreadable"
    CACHE = "CacheNotWritable"
    HUB = "HubUnreachable"
    CONFIG_TOO_LARGE = "ConfigTooLarge"


TRANSIENT = frozenset({Reason.HUB})
"""Reasons that pass by themselves; the others stay until somebody changes something."""


class ReportError(ValueError):
    """A text that is no report."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that lies in the cache: its commit, and the bytes of its files there."""

    commit: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """A model that was looked at: what sizing reads of its config.json, and the bytes of its weight files.

    `commit` is empty for a folder.
    """

    commit: str
    config: Mapping[str, Any] = field(hash=False)
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Why it did not work, in one sentence that names the repository and the way out."""

    reason: Reason
    message: str


Report = Fetched | Inspected | Failed


def render_report(report: Report) -> str:
    """The report as one line of JSON, at most LIMIT bytes.

    A config that does not fit as it is goes as `lzma:` and base 85. Raises ReportError when that does not fit either.
    """
    match report:
        case Fetched():
            return _fitting({"version": VERSION, "commit": report.commit, "bytes": report.bytes})
        case Failed():
            error = {"reason": report.reason.value, "message": clean(report.message)}
            return _fitting({"version": VERSION, "error": error})
        case Inspected():
            body = {"version": VERSION, "commit": report.commit, "config": dict(report.config)}
            body["weightBytes"] = report.weight_bytes
            try:
                return _fitting(body)
            except ReportError:
                return _fitting({**body, "config": _pack(report.config)})


def parse_report(text: str | None) -> Report:
    """The report in a termination message. Raises ReportError for anything else, whatever it holds."""
    if not text or len(text.encode("utf-8", "replace")) > LIMIT:
        raise ReportError("no report: the termination message is empty or too long")
    body = _object(text)
    if body.get("version") != VERSION or isinstance(body["version"], bool):
        raise ReportError(f"no report of version {VERSION}")
    if "error" in body:
        return _failure(body["error"])
    if "config" in body:
        return Inspected(
            _commit(body, optional=True), _config(body["config"]), _whole(body.get("weightBytes"), "weightBytes")
        )
    return Fetched(_commit(body), _whole(body.get("bytes"), "bytes"))


def is_commit(revision: str) -> bool:
    """Whether a revision is a full hash, which says for good which files it means."""
    return bool(_COMMIT.fullmatch(revision))


def clean(message: str) -> str:
    """The sentence on one line, without characters that a terminal or the API server would choke on, cut to fit."""
    line = "".join(letter if letter.isprintable() else " " for letter in message).strip()
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def _compact(body: object) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _fitting(body: Mapping[str, Any]) -> str:
    text = _compact(body)
    size = len(text.encode("utf-8", "replace"))
    if size > LIMIT:
        raise ReportError(f"the report has {size} bytes: a termination message has room for {LIMIT}")
    return text


def _pack(config: Mapping[str, Any]) -> str:
    packed = lzma.compress(_compact(config).encode(), format=lzma.FORMAT_RAW, filters=_FILTERS)
    return _PACKED + base64.b85encode(packed).decode()


def _unpack(text: str) -> object:
    """The config in a packed text; unfolds no more than CONFIG_LIMIT bytes of it."""
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_FILTERS)
    try:
        content = unpacker.decompress(base64.b85decode(text.removeprefix(_PACKED)), CONFIG_LIMIT)
        whole = content.decode()
    except (ValueError, lzma.LZMAError, EOFError) as error:
        raise ReportError("the packed config cannot be unpacked") from error
    if not unpacker.eof:
        raise ReportError(f"the packed config is cut off, or larger than {CONFIG_LIMIT} bytes")
    return _load(whole)


def _refuse(text: str) -> NoReturn:
    raise ReportError(f"{text[:20]} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _refuse(text)


def _integer(text: str) -> int:
    digits = len(text.lstrip("-"))
    return int(text) if digits <= len(str(_LARGEST)) and abs(int(text)) <= _LARGEST else _refuse(text)


def _load(text: str) -> object:
    """JSON without what only Python reads: NaN, numbers that no 64-bit reader holds, halves of surrogate pairs."""
    try:
        content: object = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_integer)
        _compact(content).encode()
    except (ValueError, RecursionError) as error:
        raise ReportError("no report: the termination message is no JSON") from error
    return content


def _object(text: str) -> Mapping[str, Any]:
    content = _load(text)
    if not isinstance(content, dict):
        raise ReportError("no report: the termination message is no JSON object")
    return content


def _failure(error: object) -> Failed:
    reason, message = (error.get("reason"), error.get("message")) if isinstance(error, dict) else (None, None)
    if not isinstance(reason, str) or reason not in set(Reason) or not isinstance(message, str):
        raise ReportError("the report names no reason that is known")
    return Failed(Reason(reason), clean(message))


def _commit(body: Mapping[str, Any], *, optional: bool = False) -> str:
    commit = body.get("commit")
    if commit == "" and optional:
        return ""
    if not isinstance(commit, str) or not is_commit(commit):
        raise ReportError("the report's commit is no commit")
    return commit


def _config(config: object) -> Mapping[str, Any]:
    config = _unpack(config) if isinstance(config, str) and config.startswith(_PACKED) else config
    if not isinstance(config, dict):
        raise ReportError("the report's config is no object")
    return config


def _whole(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ReportError(f"the report's {name} is no whole number of at least 0")
    return value


GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a download is there, in GiB as the line says it."""

    done: float
    total: float
    percent: int


PROGRESS = re.compile(
    r"fetched (?P<done>\d{1,9}\.\d) of (?P<total>\d{1,9}\.\d) GiB \((?P<percent>\d{1,2}|100) %\)", re.ASCII
)
"""A line that `progress_line` writes."""


def progress_line(done: int, total: int) -> str:
    """The line that says that `done` of `total` bytes are there; 100 % only when all of them are."""
    percent = 100 if done >= total else min(99, round(100 * done / total))
    return f"fetched {done / GIBIBYTE:.1f} of {total / GIBIBYTE:.1f} GiB ({percent} %)"


def parse_progress(log: str) -> Progress | None:
    """The last progress of a pod's log; None where there is none."""
    for line in reversed(log.splitlines()):
        found = PROGRESS.fullmatch(line.strip())
        if found:
            return Progress(float(found["done"]), float(found["total"]), int(found["percent"]))
    return None
