"""Why a pod does not serve: what is known of it, matched against a table of failures (data/failures.yaml).

Pods are not trusted: their lines are bounded, cleaned and stripped of secrets before any of it is shown.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from vllm_operator.engine.flags import policy
from vllm_operator.sizing.gpus import parse_yaml

Where = Literal["end", "log", "state", "pod", "event"]

MAX_LINES = 400
"""Lines of a log that are looked at. An engine that fails prints its traceback twice, in about 150 lines."""

MAX_LINE = 1000
"""Characters of a line that are looked at."""

MAX_LOG = 64 * 1024
"""Characters of a log that are looked at, once its lines are cut."""

MAX_QUOTE = 300
"""Characters of a line that are shown."""

FACTS = ("container", "image", "memory_limit", "gpus", "selector", "node", "startup_seconds")
"""What sentences of the table may name beside groups of their pattern; each is a word or two about the pod."""

_MAX_GROUP = 120


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table; its fields are explained there."""

    reason: str
    where: Where
    patterns: tuple[re.Pattern[str], ...]
    what: str
    remedy: str
    source: str
    examples: tuple[str, ...]
    stalled: bool = False
    at_once: bool = False
    quotes_log: bool = False

    def search(self, line: str) -> re.Match[str] | None:
        """The first pattern that is found in a line."""
        return next((found for pattern in self.patterns if (found := pattern.search(line))), None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a pod: lines by where they come from, as `log_lines` leaves them, and facts (see FACTS)."""

    lines: Mapping[Where, Sequence[str]]
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A failure that was found: one word, what happened and what to do, the line that shows it.

    `stalled`: waiting will not help, which is told `at_once`, or when it has happened again.
    """

    reason: str
    sentences: str
    proof: str
    where: Where
    stalled: bool = False
    at_once: bool = False

    @property
    def message(self) -> str:
        """All of it."""
        return f"{self.sentences} ({self.proof})" if self.proof else self.sentences


def _failure(row: Mapping[str, Any]) -> Failure:
    """A row of the file. Raises KeyError, TypeError, ValueError or re.error for one that is not as it should be."""
    rest = {key: value for key, value in row.items() if key not in ("patterns", "examples", "quotes")}
    return Failure(
        patterns=tuple(re.compile(pattern, re.MULTILINE) for pattern in row["patterns"]),
        examples=tuple(row["examples"]),
        quotes_log=row.get("quotes") == "log",
        **rest,
    )


@cache
def failures() -> tuple[Failure, ...]:
    """The table that ships with the package."""
    rows = parse_yaml((files("vllm_operator.engine") / "data" / "failures.yaml").read_text())
    return tuple(_failure(row) for row in rows)


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """The first failure of the table that the evidence shows; None when it shows none."""
    texts = {where: "\n".join(lines) for where, lines in evidence.lines.items()}
    for failure in failures():
        text = texts.get(failure.where, "")
        if not text or not failure.search(text):  # ten times faster than line by line, and rarely true
            continue
        for line in evidence.lines[failure.where]:
            if found := failure.search(line):
                return _diagnosis(failure, found, evidence)
    return None


def _diagnosis(failure: Failure, found: re.Match[str], evidence: Evidence) -> Diagnosis:
    groups = {name: _shown(text or "", _MAX_GROUP) for name, text in found.groupdict().items()}
    values = {**dict.fromkeys(FACTS, "unknown"), **evidence.facts, **groups}
    if flags := found.groupdict().get("flags"):
        values |= {"flags": _shown(_flags(flags), _MAX_GROUP), "successors": _successors(flags)}
    return Diagnosis(
        reason=failure.reason or groups["reason"],
        sentences=f"{failure.what.format_map(values)} {failure.remedy.format_map(values)}",
        proof=_proof(failure, found.string, evidence),
        where=failure.where,
        stalled=failure.stalled,
        at_once=failure.at_once,
    )


def _proof(failure: Failure, line: str, evidence: Evidence) -> str:
    """The line that shows it and where it stands; empty where the line only repeats the reason."""
    where, shown = str(failure.where), line
    if failure.quotes_log:
        where, shown = "log", _last_error(evidence.lines.get("log", ()))
    elif where in ("end", "state") and ": " not in line:
        return ""
    return f'{where}: "{quote(shown)}"' if shown else ""


_RAISED = re.compile(r"[A-Za-z_][\w.]{0,100}(?:Error|Exception|Interrupt|Exit)\b: ")
_REFERS = re.compile(r"(?i)see (?:root cause|stack trace)")
_TELLS_OF_ERROR = re.compile(r"(?i)error|exception|fatal|abort|segfault|killed|failed|panic|cannot")


def _last_error(log: Sequence[str]) -> str:
    """The last exception that says more than "see above"; else a line that sounds like an error; else the last one."""
    telling = [line for line in reversed(log) if not _REFERS.search(line)]
    raised = (line for line in telling if _RAISED.match(line))
    sounding = (line for line in telling if _TELLS_OF_ERROR.search(line))
    return next(raised, None) or next(sounding, None) or (log[-1] if log else "")


def _flags(text: str) -> str:
    """The flags among the words of a command line; all of it when there are none."""
    return " ".join(word for word in text.split() if word.startswith("-")) or text


def _successors(text: str) -> str:
    """What became of flags that vLLM once knew, to be appended to a sentence."""
    removed = policy().removed
    names = (word.partition("=")[0].replace("_", "-") for word in text.split())
    told = [f"{name} was removed from vLLM: use {removed[name]}" for name in names if name in removed]
    return f" ({'; '.join(told)})" if told else ""


# --- lines of a log

_ANSI = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
# As vLLM writes them (vllm/logger.py): `(EngineCore pid=42) ERROR 11-21 16:00:00 [core.py:12] `.
_PROCESS = re.compile(r"(?:\(\w[\w -]{0,60} pid=\d{1,9}\) ?){1,3}")
_LEVEL = re.compile(r"(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]{1,80}\] ?")
# Configurations and hints are full of words that failures are known by; so is the code that tracebacks show.
_HARMLESS = re.compile(r"(?:DEBUG|INFO|WARNING)\b|raise [A-Za-z_]")


def log_lines(text: str) -> tuple[str, ...]:
    """The lines of a log that may tell of a failure: the last ones, cut, without vLLM's prefix, without mere news."""
    kept: deque[str] = deque()
    room = MAX_LOG
    for line in reversed(text[-MAX_LINES * MAX_LINE * 4 :].splitlines()[-MAX_LINES:]):
        cut = line[: 2 * MAX_LINE]
        room -= min(len(cut), MAX_LINE)
        if room < 0:
            break
        kept.appendleft(cut)
    return tuple(_stripped(kept))


def _stripped(lines: Sequence[str] | deque[str]) -> Iterator[str]:
    for line in lines:
        plain = _without_prefix(clean(line).strip())
        if plain and not _HARMLESS.match(plain):
            yield plain[:MAX_LINE].strip()


def _without_prefix(line: str) -> str:
    """A line without vLLM's prefix; what a worker prints gets one from each process that hands it on."""
    for pattern in (_PROCESS, _LEVEL, _PROCESS):
        found = pattern.match(line)
        line = line[found.end() :].lstrip() if found else line
    return line


def clean(text: str) -> str:
    """A text on one line, without colours and characters that a terminal or the API server would choke on."""
    plain = _ANSI.sub("", text)
    return plain if plain.isprintable() else "".join(one if one.isprintable() else " " for one in plain)


# --- what may be shown

_NAMED_SECRET = re.compile(
    r"(?i)((?:(?:(?:api|access|account|storage|private)[_-]?key|passw(?:or)?d|secret|credential)\w{0,40}"
    r"|token|authorization|signature|\bsig)['\"]?\s{0,3}[:=]"
    r"|--(?:api-key|hf-token)[ =]|\bbearer\s).*"
)
_SECRET = re.compile(r"\b(?:hf_|sk-|gh[pousr]_|AKIA|eyJ)[\w.-]{6,}")
_USER_INFO = re.compile(r"://[^/\s@]{1,200}@")


def redact(text: str) -> str:
    """A line without keys and tokens: what follows a name of one is cut off, what looks like one is starred out."""
    shown = _NAMED_SECRET.sub(r"\1 ***", text)
    return _USER_INFO.sub("://***@", _SECRET.sub("***", shown))


def quote(line: str) -> str:
    """A line as it may be shown: cleaned, redacted, at most MAX_QUOTE characters."""
    return _shown(line, MAX_QUOTE)


def _shown(text: str, most: int) -> str:
    safe = redact(clean(text[: 4 * MAX_LINE])).strip()
    return safe if len(safe) <= most else safe[: most - 3].rstrip() + "..."
