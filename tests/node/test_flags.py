"""vLLM's own parser agrees: with the data, with every command line that the operator makes, and with what is refused.

The parser runs in the environment of which the node's image is made, once for all argument lists of a test.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import yaml

from corpus import bad_resources
from images.environment import VLLM
from vllm_operator.engine.flags import judge, parse_problems, policy
from vllm_operator.engine.vocabulary import Flag, Vocabulary, vocabulary

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.yaml"))
VERSION = "0.32"  # of the environment
TIMEOUT = 600  # seconds; 40 suffice on an idle machine
# Values that some types take and others do not.
VALUES = ("1", "-1", "1.5", "x", "", "None", "{}", "[]", '{"a": 1}', "{a}", "8k", "1.5K", "2G", "auto", "AUTO", "true")

pytestmark = pytest.mark.real_node


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    """The environment with vLLM, which is made where it is missing."""
    VLLM.ensure()


@dataclass(frozen=True)
class Said:
    """Complaints, or None, about argument lists of four kinds, in the order of the functions that make them."""

    used: list[str | None]
    refused: list[str | None]
    removed: list[str | None]
    reviewed: list[str | None]


def run(script: Path, *options: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = ["nice", str(VLLM.python), str(script), *options]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def known() -> Vocabulary:
    found = vocabulary(VERSION)
    assert found is not None
    return found


def test_the_data_is_what_the_parser_knows() -> None:
    answer = run(ROOT / "scripts" / "dump_flags.py", "--check")
    assert answer.returncode == 0, answer.stdout


def served(golden: Path) -> list[str]:
    """Arguments after the model of the server in a reviewed file; none for an own server or a refused resource."""
    for manifest in yaml.load_all(golden.read_text(), yaml.CSafeLoader):
        if manifest["kind"] == "Deployment":
            server = manifest["spec"]["template"]["spec"]["containers"][0]
            return list(server["args"][1:]) if server["command"] == ["vllm", "serve"] else []
    return []


def uses(flag: Flag) -> Iterator[list[str]]:
    """A flag in all manners: alone, with a value of each kind beside it or behind `=`, with two, with keys.

    Keys of a text are refused here only: vLLM would take the JSON that it makes of them for the text.
    """
    for spelling in flag.spellings:
        yield [spelling]
        yield [spelling, "1", "2"]
        yield [f"{spelling}=1", "2"]
        yield from [] if flag.type == "text" else [[f"{spelling}.a", "1"]]
    yield [f"{flag.name}={VALUES[0]}"]
    for value in (*VALUES, *flag.choices, *(choice.upper() for choice in flag.choices[:1])):
        yield [flag.name, value]
    for key in flag.keys[:2]:
        yield [f"{flag.name}.{key}_", "1"]


def used() -> list[tuple[Flag, list[str]]]:
    """Every flag in all manners, but for two of the operator that read files and JSON behind argparse's back."""
    flags = {flag.name: flag for flag in known().flags.values() if flag.name not in ("--config", "--lora-modules")}
    return [(flag, use) for flag in flags.values() for use in uses(flag)]


def reviewed() -> dict[str, list[str]]:
    return {golden.stem: line for golden in GOLDEN if (line := served(golden))}


def refused() -> list[list[str]]:
    """Arguments of the bad resources, but for what is refused on purpose: owned, overruled, abbreviated, twice."""
    return [
        bad.document["spec"]["engine"]["extraArgs"]
        for bad in bad_resources("condition")
        if bad.name.startswith("args-")
        and not any(word in bad.says for word in ("operator", "overruled", "abbreviates", "twice"))
    ]


@pytest.fixture(scope="module")
def said() -> Said:
    """vLLM's answers to all argument lists of this module."""
    removed = [[name] for name in policy().removed]
    groups = [[use for _, use in used()], refused(), removed, list(reviewed().values())]
    lists = [[["model", *arguments] for arguments in group] for group in groups]
    asked = {"parser": [*lists[0], *lists[1], *lists[2]], "engine": lists[3]}
    answer = run(Path(__file__).parent / "parse_arguments.py", given=json.dumps(asked))
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads(answer.stdout)
    parsed: Iterator[str | None] = iter(found["parser"])
    each = [list(islice(parsed, len(group))) for group in groups[:3]]
    assert [*map(len, each), len(found["engine"])] == [len(group) for group in groups]
    return Said(used=each[0], refused=each[1], removed=each[2], reviewed=found["engine"])


def test_every_reviewed_command_line_is_accepted(said: Said) -> None:
    assert len(said.reviewed) > 35
    answers = zip(reviewed(), said.reviewed, strict=True)
    assert {name: complaint for name, complaint in answers if complaint} == {}


def test_flags_are_judged_as_the_parser_judges_them(said: Said) -> None:
    """Values of keys inside an object are the parser's business: there it may refuse what is let through."""
    wrong = [
        (use, problems, complaint)
        for (flag, use), complaint in zip(used(), said.used, strict=True)
        if bool(problems := parse_problems(use, known())) != bool(complaint)
        and not (complaint and flag.type == "object")
    ]
    assert wrong == []
    assert len(said.used) > 6000


def test_what_is_refused_would_not_have_started(said: Said) -> None:
    assert len(said.refused) >= 10
    assert all(judge(arguments, known()).unknown for arguments in refused())
    assert [arguments for arguments, complaint in zip(refused(), said.refused, strict=True) if not complaint] == []


def test_removed_flags_are_gone(said: Said) -> None:
    answers = zip(policy().removed, said.removed, strict=True)
    kept = {name for name, complaint in answers if not complaint or "unrecognized" not in complaint}
    assert kept == {"--device"}  # argparse takes it for the beginning of --device-ids
