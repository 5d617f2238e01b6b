"""Log lines for machines and for people, both with the resource that they are about."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

# What `extra` may add to a line; kopf adds objects of its own, which are left out.
_FIELDS = ("resource", "result", "reason", "writes", "seconds", "retry_in")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        known = [f"{name}={vars(record)[name]}" for name in _FIELDS if name in vars(record)]
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
