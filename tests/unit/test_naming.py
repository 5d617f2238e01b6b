"""Names of children: legal wherever they are used, one for each resource, and the same for good."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_operator.api.fields import SUBDOMAIN
from vllm_operator.naming import (
    Key,
    as_selector,
    child_name,
    controller_of,
    digest,
    labels,
    owner_reference,
    resource_of,
    selector,
)

SUFFIXES = ["", "-cache", "-dashboard", "-preload-0123abcd"]
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035: what a Service's name must be
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def legal(text: str, repeat: int) -> str:
    """A subdomain made of the text, up to 253 characters long."""
    parts = (text * repeat)[:253].split(".")
    return ".".join(part.strip("-") or "0" for part in parts)[:253].rstrip(".-")


names = st.builds(legal, st.text("ab01-.", min_size=1, max_size=60), st.integers(1, 5))


@given(names, st.sampled_from(SUFFIXES))
@example("a" * 63, "-cache")
@example("0.0", "")
@example("x" * 253, "-preload-0123abcd")
@example("a" + "-" * 61 + "a", "-dashboard")
@example("0-" * 40 + "0", "")
def test_a_child_has_a_legal_name(name: str, suffix: str) -> None:
    assert re.fullmatch(SUBDOMAIN, name), "the strategy draws what the API server takes"
    child = child_name(name, suffix)
    assert DNS_LABEL.fullmatch(child)
    assert LABEL_VALUE.fullmatch(child)
    assert child.endswith(suffix)
    assert child == child_name(name, suffix)


def neighbours(name: str) -> set[str]:
    """Names that a careless rule would take for the same."""
    respelled = {name, name.replace(".", "-"), name.replace("-", ".")}
    near = respelled | {f"v-{name}", f"{name}0", f"0{name}", name[:60], name[:50]}
    return {one for one in near if len(one) <= 253 and re.fullmatch(SUBDOMAIN, one)}


@given(names, names, st.sampled_from(SUFFIXES))
@example("a.b", "a-b", "")
@example("p" * 250 + ".x", "p" * 250 + ".y", "-cache")
def test_two_resources_never_share_a_child(one: str, other: str, suffix: str) -> None:
    """Children of one kind all carry the same suffix, so that it is enough to tell resources apart."""
    several = neighbours(one) | neighbours(other)
    assert len({child_name(name, suffix) for name in several}) == len(several)


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("chat", "", "chat"),
        ("chat", "-cache", "chat-cache"),
        ("chat.v2", "", "chat-v2-93024ae74e"),
        ("3b-chat", "", "v-3b-chat-819e6af075"),
        ("a" * 64, "", "a" * 52 + "-659184ac81"),
    ],
)
def test_names_stay_as_they_are_for_good(name: str, suffix: str, expected: str) -> None:
    """Selectors are immutable and claims outlive the operator: another rule would leave both behind."""
    assert child_name(name, suffix) == expected


def test_selectors_are_part_of_the_labels_of_servers_only() -> None:
    server, preload = labels("chat.v2", "server"), labels("chat.v2", "preload")
    assert selector("chat.v2").items() <= server.items()
    assert not selector("chat.v2").items() <= preload.items()
    assert not selector("chat.v2").items() <= labels("chat.v3", "server").items()
    assert as_selector({"b": "2", "a": "1"}) == "a=1,b=2"
    assert all(LABEL_VALUE.fullmatch(value) for value in labels("x" * 253, "server").values())


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.lists(st.booleans()))))
def test_equal_values_have_equal_digests(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest(value) == digest(turned) == digest(json.loads(json.dumps(value)))
    assert digest(value) != digest([value])
    assert re.fullmatch("[0-9a-f]{10}", digest(value))


def test_who_an_object_belongs_to() -> None:
    ours = owner_reference("chat", "u1")
    foreign = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "u2"}
    assert controller_of({"ownerReferences": [foreign, ours]}) == ours
    assert controller_of({"ownerReferences": [foreign]}) is None
    assert controller_of({}) is None
    assert "blockOwnerDeletion" not in ours, "it needs a right on finalizers"
    assert resource_of({"annotations": {"vllm-operator.dev/resource": "chat.v2"}}) == "chat.v2"
    assert resource_of({"annotations": None}) is None
    for written in ("../pods/p/log?follow=true", "Chat", "chat\n", "a" * 254, ""):
        assert resource_of({"annotations": {"vllm-operator.dev/resource": written}}) is None
    assert str(Key("team-a", "chat")) == "team-a/chat"
