"""Whatever value stands in a template is in the document as it went in."""

from __future__ import annotations

import random
import re
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from yaml import YAMLError

from vllm_operator.render.filling import environment, fill

TEMPLATE = """\
before: {{ value }}
nested:
  {% for item in [value, value] %}
  - {name: {{ item }}, after: [{{ item }}]}
  {% endfor %}
end: here
"""

# Words that YAML, jinja2 or a shell would read as something else than text.
TRAPS = [
    "", " ", "~", "null", "yes", "no", "on", "0x1f", "1e3", "1_000", "012", "12:30:45", ".inf", "2026-01-01", "<<", "=",
    "- a", "a: b", "a #b", "'", '"', "\\", "\n", "\r\n", "\t", "a\nb: c", "--- x", "...", "%YAML", "&a", "*a", "!!str",
    "{{ 7 * 7 }}", "{% raw %}", "{# #}", "}}", "${HOME}", "$(HOME)", "\x00", "\x85", "\u2028", "\ufeff", "😀", "{", "]",
]  # fmt: skip


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(TRAPS)
    planes = (range(0x80), range(0x80, 0xD800), range(0xE000, 0x110000))  # all but surrogates, which JSON cannot hold
    return "".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randrange(8)))


def random_value(rng: random.Random, depth: int = 0) -> Any:  # noqa: ANN401 - what a JSON document can hold
    scalars = (None, True, False, rng.randrange(-(2**70), 2**70), rng.random() * 10.0 ** rng.randrange(-320, 300))
    choice = rng.randrange(10)
    if choice > 7 and depth < 3:
        items = [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return items if choice == 8 else {random_text(rng): item for item in items}
    return random_text(rng) if choice < 4 else rng.choice(scalars)


def filled(template: str, **values: object) -> dict[str, Any]:
    return fill(environment().from_string(template), values)


def test_thousands_of_values_survive_a_template_exactly() -> None:
    rng = random.Random(20)  # noqa: S311 - reproducible on purpose
    assert_survives([random_value(rng) for _ in range(3000)])


@settings(max_examples=25)
@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False, allow_infinity=False)))
@example([1e-07, 1e22, -0.0, 5e-324, 2**80])
@example({"k" * 3000: {"\x7f" * 300: [{}]}})
def test_any_scalar_survives_a_template_exactly(value: object) -> None:
    assert_survives(value)


def test_a_sign_of_our_own_is_a_value_like_any_other() -> None:
    assert_survives(["\ue0000", "\ue000", {"\ue0001": "\ue0002"}])


def test_what_is_made_shares_nothing_with_what_it_was_made_of() -> None:
    inner: dict[str, Any] = {"a": [1]}
    first = filled("x: {{ value }}\ny: [1]", value=inner)
    first["x"]["a"].append(2)
    first["y"].append(2)
    assert inner == {"a": [1]}
    assert filled("x: {{ value }}\ny: [1]", value=inner) == {"x": inner, "y": [1]}


def test_only_json_goes_in() -> None:
    assert filled("a: {{ value }}", value=("b", {"c": (1,)})) == {"a": ["b", {"c": [1]}]}
    with pytest.raises(TypeError, match="cannot hold set values"):
        filled("a: {{ value }}", value={1})


def test_a_mark_is_no_part_of_a_word() -> None:
    with pytest.raises(YAMLError):
        filled("a: {{ value }}-svc", value="b")


def assert_survives(value: object) -> None:
    """Exactly: 1 is not 1.0, True is not 1, -0.0 is not 0.0."""
    found = filled(TEMPLATE, value=value)
    assert repr(found) == repr({"before": value, "nested": [{"name": value, "after": [value]}] * 2, "end": "here"})


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'value' is undefined"):
        filled("a: {{ value }}")
    with pytest.raises(UndefinedError, match="has no attribute 'b'"):
        filled("a: {{ value.b }}", value={})


def test_templates_that_ship_let_a_value_be_a_whole_scalar_only() -> None:
    """A mark stands by itself: `{{ a }}-{{ b }}` would put quotes into the middle of a word."""
    for template in (files("vllm_operator.render") / "templates").iterdir():
        text = re.sub(r"\{%.*?%\}", "", template.read_text())
        for found in re.finditer(r"(.?)\{\{.*?\}\}(.?)", text):
            before, after = found.groups()
            assert before in (" ", "["), f"{template.name}: {found.group()}"
            assert after in ("", "]", "}", ":", ","), f"{template.name}: {found.group()}"
