"""Log lines for machines and for people, both with the resource that they are about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vllm_operator.api import KIND

DUMP = "vllm_operator.app.dump"

# What `extra` may add to a line; kopf adds objects of its own, which are left out.
_FIELDS = ("resource", "result", "phase", "reason", "writes", "seconds", "retry_in")
_FOR_MACHINES = ("configuration", "holder", "transitions", "left")  # the message says them as well


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says beside its message: the fields above, and whatever is in `details`."""
    said = vars(record)
    known = {name: said[name] for name in _FIELDS if name in said}
    return {**_subject(said.get("k8s_ref")), **known, **said.get("details", {})}


def _subject(reference: Mapping[str, Any] | None) -> dict[str, str]:
    """The object that a line of kopf's is about."""
    if not reference:
        return {}
    name = "/".join(part for part in (reference.get("namespace"), reference.get("name")) if part)
    kind = reference.get("kind")
    return {"resource": name} if kind == KIND else {"object": f"{kind} {name}"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        line |= {name: vars(record)[name] for name in _FOR_MACHINES if name in vars(record)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        known = [f"{name}={value}" for name, value in _fields(record).items()]
        head, newline, traceback = super().format(record).partition("\n")
        return " ".join([head, *known]) + newline + traceback


def configure_logging(level: str, log_format: str) -> None:
    """Send this process's log lines to standard error: `level` as in logging, `log_format` json or text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # kopf tells of every step it takes; its warnings and errors matter
    logging.getLogger("kopf").setLevel(logging.WARNING if level == "info" else logging.NOTSET)
    # Whoever asks for a dump is answered at any level.
    logging.getLogger(DUMP).setLevel(logging.INFO)
