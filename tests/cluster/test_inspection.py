"""Jobs that look at models on simulated nodes: what their pods report reaches plan and status, and failures heal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cluster.support.fixtures import Create
from cluster.support.service import CACHED, COMMIT, HOLD, Service
from localcluster import pods
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.naming import COMPONENT, HOLDS_ANNOTATION
from vllm_operator.report import Failed, Fetched, Inspected, Reason, Report, render_report
from vllm_operator.status.observation import is_finished

CONFIGS = Path(__file__).parents[1] / "sizing" / "configs"
PRIVATE = {"model": {"source": "hf://acme/private", "revision": None, "servedNames": ["private"], "maxLength": 8192}}
ON_GPU = {"gpu": {"count": "auto", "product": "NVIDIA-H100-80GB-HBM3"}}
MESSAGE = "localcluster.test/termination-message"


def config() -> dict[str, object]:
    found: dict[str, object] = json.loads((CONFIGS / "Qwen--Qwen3-8B" / "config.json").read_text())
    return found


def reporting(report: Report, **more: str) -> Mapping[str, str]:
    return {MESSAGE: render_report(report), **{f"localcluster.test/{key}": value for key, value in more.items()}}


def of(component: str) -> dict[str, str]:
    return {COMPONENT: component}


def said_of_claim(service: Service) -> Mapping[str, str]:
    """Of its claim."""
    claim = service.child(kinds.CLAIM, "-cache")
    assert claim is not None
    found: Mapping[str, str] = claim["metadata"]["annotations"]
    return found


def test_a_private_model_is_sized_by_its_config(create: Create, kubectl: Kubectl) -> None:
    with pods.annotate(kubectl, "inspected", reporting(Inspected(COMMIT, config(), 16_381_470_720)), of("inspect")):
        service = create("web", PRIVATE, ON_GPU, CACHED).wait_ready()
    assert service.status["sizing"]["verdict"] == "Fits"
    assert service.status["model"]["architecture"] == "Qwen3ForCausalLM"
    assert service.status["model"]["inspected"]["source"] == "hf://acme/private@main"
    wait_for(lambda: [job["metadata"]["name"].split("-")[1] for job in service.jobs()] == ["preload"])


def test_the_commit_that_was_brought_is_served(create: Create, kubectl: Kubectl) -> None:
    with pods.annotate(kubectl, "fetched", reporting(Fetched(COMMIT, 1)), of("preload")):
        service = create("web", {"model": {"revision": None}}, CACHED).wait_ready()
    args = service.deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--revision") + 1] == COMMIT
    assert service.status["model"]["commit"] == COMMIT


def test_a_claim_that_holds_the_model_keeps_its_next_resource_from_waiting(create: Create, kubectl: Kubectl) -> None:
    with pods.annotate(kubectl, "fetched", reporting(Fetched(COMMIT, 1)), of("preload")):
        first = create("web", CACHED).wait_ready()
    wait_for(lambda: HOLDS_ANNOTATION in said_of_claim(first), message="the claim says what it holds")
    first.delete()
    first.await_left("PersistentVolumeClaim")
    with pods.annotate(kubectl, "held", {HOLD: "true"}, of("preload")):
        again = create("web", CACHED).wait_ready()
        assert again.says("CacheReady", "True", "Preloaded")
        wait_for(lambda: again.pods("preload"), message="a Job looks again")
        assert not is_finished(again.jobs()[0])
        again.edit({"model": {"revision": COMMIT[::-1]}})
        again.wait("Ready", "False", "Preloading")
        assert again.says("CacheReady", "False", "Preloading")
        assert HOLDS_ANNOTATION not in said_of_claim(again)

    again.release_until_ready()


def test_a_gated_model_is_said_and_tried_anew_when_the_job_is_deleted(create: Create, kubectl: Kubectl) -> None:
    gated = Failed(Reason.GATED, "acme/private is gated: accept its licence")
    failing = reporting(gated, **{"fail": "true", "exit-code": "3"})
    with pods.annotate(kubectl, "gated", failing, of("inspect")):
        service = create("web", PRIVATE, ON_GPU, CACHED)
        service.wait("Stalled", "True", "ModelGated")
    assert service.says("ModelResolved", "False", "ModelGated")
    assert "accept its licence" in service.condition("Ready")["message"]
    assert service.child(kinds.DEPLOYMENT) is None
    # Until then pods of a new Job would fail alike.
    wait_for(lambda: not pods.in_effect(kubectl, failing, of("inspect")), message="failing pods are over")
    with pods.annotate(kubectl, "accepted", reporting(Inspected(COMMIT, config(), 16_381_470_720)), of("inspect")):
        kubectl("delete", "job", service.jobs()[0]["metadata"]["name"])
        service.wait_ready()
