"""Argo CD's health script, run by the Lua that Argo CD embeds (5.1), on statuses that the operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

SCRIPT = (Path(__file__).resolve().parents[2] / "manifests" / "gitops" / "argocd-health.lua").read_text()


def _health(resource: dict[str, Any]) -> tuple[str, str]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(resource, recursive=True)
    answer = lua.execute(SCRIPT)
    return str(answer["status"]), str(answer["message"])


def _resource(observed: int | None, **conditions: tuple[str, str]) -> dict[str, Any]:
    found = [
        {"type": kind, "status": status, "reason": reason, "message": f"{reason} it is"}
        for kind, (status, reason) in conditions.items()
    ]
    resource: dict[str, Any] = {"metadata": {"generation": 2}}
    if observed is not None:
        resource["status"] = {"observedGeneration": observed, "conditions": found}
    return resource


@pytest.mark.parametrize(
    ("resource", "health"),
    [
        (_resource(None), "Progressing"),
        (_resource(1, Ready=("True", "Available"), Stalled=("False", "Progressing")), "Progressing"),
        (_resource(2, Ready=("True", "Available"), Stalled=("False", "Progressing")), "Healthy"),
        (_resource(2, Ready=("True", "Idle"), Stalled=("False", "Progressing")), "Healthy"),
        (_resource(2, Ready=("True", "Suspended"), Stalled=("False", "Progressing")), "Suspended"),
        (_resource(2, Ready=("False", "Starting"), Stalled=("False", "Progressing")), "Progressing"),
        (_resource(2, Ready=("False", "UnknownGPU"), Stalled=("True", "UnknownGPU")), "Degraded"),
    ],
)
def test_health_follows_the_conditions(resource: dict[str, Any], health: str) -> None:
    assert _health(resource)[0] == health


def test_the_reason_of_a_refusal_is_handed_on() -> None:
    refused = _resource(2, Ready=("False", "UnknownGPU"), Stalled=("True", "UnknownGPU"))
    assert _health(refused)[1] == "UnknownGPU: UnknownGPU it is"
