"""Every sample becomes what its golden manifests say, and nothing beside it."""

from __future__ import annotations

import pytest

from cluster.support.api import Manifest
from cluster.support.covering import differences
from cluster.support.samples import NAMES, Samples, golden
from cluster.support.service import Service
from operator_process import OperatorProcess

Identity = tuple[str, str]


def _identity(one: Manifest) -> Identity:
    return one["kind"], one["metadata"]["name"]


def _wanted(name: str, service: Service) -> dict[Identity, Manifest]:
    """The golden children as they must be here: in this namespace, owned by this very resource."""
    found = {}
    for one in golden(name):
        one["metadata"]["namespace"] = service.namespace
        for owner in one["metadata"].get("ownerReferences", ()):
            owner["uid"] = service.uid
        found[_identity(one)] = one
    return found


@pytest.mark.parametrize("name", NAMES)
def test_sample_converges_to_its_golden_children(name: str, samples: Samples, operator: OperatorProcess) -> None:
    assert operator.alive
    service = samples[name].wait_ready(reason="Suspended" if name == "suspended" else "Available")
    live = {_identity(one): one for one in service.children()}
    wanted = _wanted(name, service)
    assert set(live) == set(wanted)
    assert [text for key, one in wanted.items() for text in differences(one, live[key], str(key))] == []
