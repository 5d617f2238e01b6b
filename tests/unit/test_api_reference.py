"""The reference names every field, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_operator.api.crd import COLUMNS, schema_of
from vllm_operator.api.reference import fields, markdown
from vllm_operator.api.spec import Spec
from vllm_operator.api.status import Status

ROOT = Path(__file__).parents[2]
TEXT = markdown()


def _section(path: str) -> str:
    found = re.search(rf"^#+ `{re.escape(path)}`\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no section {path}"
    return found.group(1)


@pytest.mark.parametrize(
    ("path", "description"),
    [
        (path, schema["description"])
        for model, root in ((Spec, "spec"), (Status, "status"))
        for path, schema in fields(schema_of(model), root)
    ],
)
def test_every_field_has_a_row_in_the_section_of_its_object(path: str, description: str) -> None:
    parent, _, name = path.rpartition(".")
    row = re.search(rf"^\| `{re.escape(name)}` \|.*$", _section(parent), re.MULTILINE)
    assert row
    assert description.split("|", maxsplit=1)[0].rstrip(".") in row.group(0)


def test_every_rule_is_listed() -> None:
    schema = schema_of(Spec)
    objects = [("spec", schema), *(pair for pair in fields(schema, "spec") if "properties" in pair[1])]
    for path, found in objects:
        for rule in found.get("x-kubernetes-validations", ()):
            assert f"- {rule['message']}" in _section(path)


def test_every_link_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ `(.*)`$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#(.*?)\)", TEXT))
    assert links
    assert links <= anchors


@pytest.mark.parametrize(
    "fragment",
    [
        '| `revision` | string | `"main"` |',
        "| `replicas` | integer | `1` | Replicas; excluded by autoscaling. From 0 to 1000. |",
        "default from the profile. Above 0, at most 1. |",
        '| `mode` | one of `Strict`, `Advisory`, `Off` | `"Strict"` |',
        "| `env` | list of [object](#specengineenv) | `[]` |",
        "| `annotations` | map of string |",
        "| `podTemplate` | any object |",
        "| `maxReplicas` | integer | required |",
        "| `claimName` | string | empty |",
        "Must be auto or a whole number from 0 to 64. |",
    ],
)
def test_types_defaults_and_limits_read_well(fragment: str) -> None:
    assert fragment in TEXT


def test_columns_are_listed() -> None:
    assert all(f"| {name} | `{path}` |" in TEXT for name, _, path, _, _ in COLUMNS)
