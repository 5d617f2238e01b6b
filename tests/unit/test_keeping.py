"""An upgrade of the operator restarts no pod: what was rendered stays until something that pods depend on changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from planning import plan_of, spec_of
from vllm_operator import kinds
from vllm_operator.naming import FIELD_MANAGER, INPUTS_ANNOTATION
from vllm_operator.plan.inputs import pod_inputs
from vllm_operator.plan.types import Child, Plan
from vllm_operator.render import render_child
from world import EPHEMERAL, FakeApi, Object, World

NEXT_IMAGE = "vllm/vllm-openai:v0.33.0"


def release_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the templates of the next release: one more field in the pods, another in the Service."""

    def render_anew(plan: Plan, child: Child) -> Object:
        manifest = render_child(plan, child)
        if child.kind is kinds.DEPLOYMENT:
            manifest["spec"]["template"]["spec"]["shareProcessNamespace"] = False
            manifest["spec"]["minReadySeconds"] = 5
        if child.kind is kinds.SERVICE:
            manifest["spec"]["sessionAffinity"] = "None"
        return manifest

    monkeypatch.setattr("vllm_operator.children.render_child", render_anew)


async def served(**spec: Any) -> World:  # noqa: ANN401 - fields of a spec
    """A resource with a server that runs, at rest."""
    world = World(**{**EPHEMERAL, **spec})
    await world.reconcile()
    world.roll_out()
    await world.reconcile()
    assert world.ready() == "Available"
    return world


def template(world: World) -> Object:
    found: Object = world.api.objects["Deployment", "chat"]["spec"]["template"]
    return copy.deepcopy(found)


async def upgraded(world: World, **defaults: Any) -> list[str]:  # noqa: ANN401 - as of `Defaults`
    """Another process of another release takes over; the calls of its first pass that changed something."""
    world.restart(**defaults)
    world.relist()
    return [call for call in await world.reconcile() if not call.startswith("event")]


async def test_a_restart_of_the_same_release_writes_nothing() -> None:
    world = await served()
    assert await upgraded(world) == []


async def test_pods_keep_their_template_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await served()
    release_next(monkeypatch)
    before, told = template(world), copy.deepcopy(world.status)
    assert await upgraded(world, engine_image=NEXT_IMAGE) == ["apply Service", "apply Deployment", "status"]
    assert template(world) == before
    assert world.api.objects["Deployment", "chat"]["spec"]["minReadySeconds"] == 5
    assert world.status["engine"] == {**told["engine"], "outdated": True}
    assert world.status["sizing"] == told["sizing"]
    world.roll_out()
    await world.reconcile()
    assert world.ready() == "Available"
    assert await world.reconcile() == []
    assert await upgraded(world, engine_image=NEXT_IMAGE) == [], "nor does the next restart write"
    world.ask(**EPHEMERAL, replicas=2)
    assert "apply Deployment" in await world.reconcile()
    assert template(world) == before, "more replicas are no other pods"
    world.ask(**EPHEMERAL, replicas=2, engine={"env": [{"name": "A", "value": "b"}]})
    assert "apply Deployment" in await world.reconcile()
    assert template(world)["spec"]["shareProcessNamespace"] is False
    assert template(world)["spec"]["containers"][0]["image"] == NEXT_IMAGE
    assert "outdated" not in world.status["engine"]


async def test_a_rollback_restarts_no_pod_either(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await served()
    release_next(monkeypatch)
    before = template(world)
    await upgraded(world, engine_image=NEXT_IMAGE)
    monkeypatch.undo()
    assert "status" in await upgraded(world)
    assert template(world) == before
    assert "outdated" not in world.status["engine"]


async def test_pods_follow_when_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await served()
    release_next(monkeypatch)
    await upgraded(world, engine_image=NEXT_IMAGE, renew_pods=True)
    assert template(world)["spec"]["shareProcessNamespace"] is False
    assert template(world)["spec"]["containers"][0]["image"] == NEXT_IMAGE


async def test_a_template_without_pods_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await served()
    world.ask(**EPHEMERAL, replicas=0)
    await world.reconcile()
    world.happen(kinds.DEPLOYMENT, "chat", status={"replicas": 0, "readyReplicas": 0})
    release_next(monkeypatch)
    await upgraded(world)
    assert template(world)["spec"]["shareProcessNamespace"] is False


@pytest.mark.parametrize("change", [{"terminationGracePeriodSeconds": 1}, {"terminationGracePeriodSeconds": None}])
async def test_a_template_that_somebody_changed_is_put_right_as_this_release_sees_it(
    monkeypatch: pytest.MonkeyPatch, change: Object
) -> None:
    world = await served()
    release_next(monkeypatch)
    body = world.api.objects["Deployment", "chat"]
    pod = body["spec"]["template"]["spec"]
    body["spec"]["template"]["spec"] = {k: v for k, v in {**pod, **change}.items() if v is not None}
    await upgraded(world)
    assert template(world)["spec"]["terminationGracePeriodSeconds"] > 1
    assert template(world)["spec"]["shareProcessNamespace"] is False


async def test_what_somebody_took_out_comes_back_without_an_upgrade_too() -> None:
    world = await served()
    body = world.api.objects["Deployment", "chat"]
    del body["spec"]["template"]["spec"]["serviceAccountName"]
    world.happen(kinds.DEPLOYMENT, "chat", spec={"template": body["spec"]["template"]})
    assert "apply Deployment" in await world.reconcile()
    assert template(world)["spec"]["serviceAccountName"] == "chat"


async def test_what_somebody_added_stays_and_restarts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kubectl rollout restart` writes an annotation into the template."""
    world = await served()
    release_next(monkeypatch)
    annotations = world.api.objects["Deployment", "chat"]["spec"]["template"]["metadata"]["annotations"]
    annotations["kubectl.kubernetes.io/restartedAt"] = "2026-11-21T12:00:00Z"
    await upgraded(world)
    assert "shareProcessNamespace" not in template(world)["spec"]


class Rewriting(FakeApi):
    """An API server that writes a value in another way than it was asked to."""

    async def apply(
        self, manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        if manifest["kind"] == "Deployment":
            manifest = copy.deepcopy(manifest)
            manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "as it likes"
        return await super().apply(manifest, manager, new=new, dry_run=dry_run)


async def test_a_template_that_the_api_server_rewrites_is_kept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(**EPHEMERAL)
    world.api.__class__ = Rewriting
    calls = await world.reconcile()
    assert calls.count("apply Deployment") == 2, "once more with the right record"
    assert await world.reconcile() == []
    assert await upgraded(world) == [], "the record says so after a restart too"
    assert "outdated" not in world.status["engine"]
    before = template(world)
    release_next(monkeypatch)
    assert "status" in await upgraded(world)
    assert template(world) == before
    assert world.status["engine"]["outdated"] is True


# The digest is kept from release to release: another one for the same spec would restart pods.
CONTRACT = {
    "small": (spec_of(), "NVIDIA-A100-SXM4-40GB", "69f4e4fb6b3def98"),
    "cpu": ({"model": {"source": "hf://acme/tiny"}, "gpu": {"count": 0}}, "", "efc30bbe75b37676"),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_digest_of_a_spec_stays_what_it_was(name: str) -> None:
    spec, product, expected = CONTRACT[name]
    assert pod_inputs(plan_of(spec).resource.spec, product) == expected


def test_a_field_at_its_default_does_not_count() -> None:
    plain, said = (
        plan_of(one).resource.spec
        for one in (spec_of(), spec_of(gpu={"product": "NVIDIA-A100-SXM4-40GB", "count": "auto"}))
    )
    assert pod_inputs(plain, "A") == pod_inputs(said, "A") != pod_inputs(plain, "B")


def test_the_record_is_on_the_deployment_and_not_on_its_pods() -> None:
    child = next(one for one in plan_of(spec_of()).children if one.kind is kinds.DEPLOYMENT)
    manifest = render_child(plan_of(spec_of()), child)
    assert INPUTS_ANNOTATION in manifest["metadata"]["annotations"]
    assert INPUTS_ANNOTATION not in manifest["spec"]["template"]["metadata"]["annotations"]
