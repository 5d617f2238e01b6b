"""Jobs that look at models and bring them: what their reports change, and what becomes of Jobs that fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vllm_operator import kinds
from vllm_operator.errors import Blocked, Transient
from vllm_operator.jobs import PATIENCE_SECONDS, PROGRESS_SECONDS, RETRY_SECONDS
from vllm_operator.naming import FIELD_MANAGER, JOB_LABEL, RESOURCE_ANNOTATION, labels
from vllm_operator.report import Failed, Fetched, Inspected, Reason, Report
from world import COMMIT, KEY, Jobs

Object = dict[str, Any]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
PRIVATE = {"source": "hf://acme/secret", "maxLength": 8192}
GUESSED = {**PRIVATE, "source": "hf://acme/secret-8b"}
INSPECTED = Inspected(COMMIT, LLAMA, 16_060_000_000)
GATED = Failed(Reason.GATED, "acme/secret is gated: accept its licence")
UNREACHABLE = Failed(Reason.HUB, "the hub does not answer")


async def test_an_unknown_model_is_looked_at_before_anything_else() -> None:
    world = Jobs(model=PRIVATE)
    assert await world.reconcile() == ["apply ServiceAccount", "apply Job", "status"]
    job = world.job("inspect")
    assert job
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][:4] == ["hf://acme/secret", "--revision", "main", "--inspect"]
    assert world.ready() == "Inspecting"
    assert world.condition("Stalled")["status"] == "False"
    assert await world.reconcile() == [], "it waits in peace"


async def test_what_the_job_reports_sizes_the_model_and_is_kept() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", INSPECTED)
    await world.reconcile()
    assert world.status["sizing"]["verdict"] == "Fits"
    assert world.status["model"]["architecture"] == "LlamaForCausalLM"
    assert world.status["model"]["inspected"]["source"] == "hf://acme/secret@main"
    assert world.job("preload")
    assert "delete Job" in await world.reconcile(), "once the status holds the report"
    assert world.job("inspect") is None
    assert world.status["sizing"]["verdict"] == "Fits"
    assert await world.reconcile() == []


async def test_another_source_is_looked_at_anew_and_what_runs_stays() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", INSPECTED)
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1))
    await world.reconcile()
    before = world.args()
    world.ask(model={**PRIVATE, "revision": "v2"})
    calls = await world.reconcile()
    assert "apply Job" in calls
    assert not any(call.startswith("delete") for call in calls)
    assert world.args() == before
    assert world.condition("ModelResolved")["reason"] == "Inspecting"


async def test_a_report_that_the_watch_has_not_told_is_asked_for() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", INSPECTED, told=False)
    await world.reconcile()
    assert world.status["sizing"]["verdict"] == "Fits"


async def test_a_report_whose_pod_vanished_unseen_is_forgotten_and_asked_for_once() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", GATED)
    await world.reconcile()
    assert world.ready() == "ModelGated"
    for ref in [ref for ref in world.api.objects if ref[0] == "Pod"]:
        del world.api.objects[ref]
    asked: list[str] = []
    for _ in range(2):
        await world.reconciler.resync(world)
        await world.reconcile()
        asked += [one for one in world.api.reads if one == "list Pod"]
    assert world.ready() != "ModelGated"
    assert asked == ["list Pod"]


@pytest.mark.parametrize("report", [None, Fetched(COMMIT, 1), Inspected("", {"hidden_size": "many"}, 1)])
async def test_a_job_that_says_nothing_useful_is_no_guess(report: Report | None) -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", report)
    await world.reconcile()
    assert world.condition("ModelResolved")["status"] == "False"
    assert world.condition("Stalled")["status"] == "True"
    assert "spec.model.facts" in world.condition("Ready")["message"] or report is None
    assert ("Deployment", "chat") not in world.api.objects


async def test_a_refused_download_says_why_and_is_tried_anew_later() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", GATED)
    result = await world.reconciler.reconcile(KEY)
    assert 0 < (result.requeue_after or 0) <= RETRY_SECONDS
    assert world.ready() == "ModelGated"
    assert "accept its licence" in world.condition("ModelResolved")["message"]
    assert world.condition("Stalled")["status"] == "True"
    assert await world.reconcile() == []
    job = world.job("inspect")
    assert job
    old = datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS + 1)
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": old.strftime("%Y-%m-%dT%H:%M:%SZ")}
    world.happen(kinds.JOB, job["metadata"]["name"], status={"conditions": [failed]})
    assert "delete Job" in await world.reconcile()
    assert "apply Job" in await world.reconcile()


@pytest.mark.parametrize("model", [PRIVATE, GUESSED])
async def test_a_report_that_went_with_its_pod_is_asked_for_again_soon(model: Object) -> None:
    """The operator was away when the Job ended, and until its pod was collected."""
    world = Jobs(model=model)
    await world.reconcile()
    world.restart()
    world.finish("inspect", "Complete", ago=7)
    world.relist()
    assert "delete Job" not in await world.reconcile(), "where pods go at once, so would the next one"
    world.finish("inspect", "Complete", ago=31)
    assert "delete Job" in await world.reconcile()
    assert "inspected" not in world.status["model"]
    assert await world.reconcile() == ["apply Job"]
    assert world.ready() == "Inspecting"
    world.end("inspect", INSPECTED)
    await world.reconcile()
    assert world.status["model"]["architecture"] == "LlamaForCausalLM"


@pytest.mark.parametrize("said", ["", "Traceback (most recent call last):", None])
async def test_a_job_that_left_no_report_is_tried_anew_later(said: str | None) -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", said)
    result = await world.reconciler.reconcile(KEY)
    assert 0 < (result.requeue_after or 0) <= RETRY_SECONDS
    assert (world.ready(), world.condition("Stalled")["status"]) == ("NoReport", "True")
    assert await world.reconcile() == []
    world.finish("inspect", "Complete" if said is not None else "Failed", ago=RETRY_SECONDS + 1)
    assert "delete Job" in await world.reconcile()
    assert "apply Job" in await world.reconcile()
    assert world.ready() == "Inspecting"


async def test_a_failure_that_went_with_its_pod_is_tried_anew_later() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.finish("inspect", "Failed")
    assert 0 < ((await world.reconciler.reconcile(KEY)).requeue_after or 0) <= RETRY_SECONDS
    assert world.ready() == "NoReport"


async def served_by_guess() -> Jobs:
    """A model whose size is taken from its name: a Job has looked at it and left no report. It serves."""
    world = Jobs(model=GUESSED)
    await world.reconcile()
    world.end("inspect", "")
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1))
    await world.reconcile()
    world.roll_out()
    await world.reconcile()
    assert (world.ready(), world.status["sizing"]["verdict"]) == ("Available", "Estimated")
    assert "InspectFailed" in world.condition("Accepted")["message"]
    return world


async def test_servers_run_by_the_guess_while_another_job_looks() -> None:
    world = await served_by_guess()
    assert await world.reconcile() == []
    assert world.job("inspect"), "it is tried anew"
    world.finish("inspect", "Complete", ago=RETRY_SECONDS + 1)
    assert await world.reconcile() == ["delete Job"]
    assert await world.reconcile() == ["apply Job"]
    world.end("inspect", UNREACHABLE, last=False)
    assert await world.reconcile() == [], "another attempt follows"
    assert world.ready() == "Available"
    world.end("inspect", INSPECTED)
    assert "delete Job" in await world.reconcile()
    assert world.status["model"]["architecture"] == "LlamaForCausalLM"
    assert "InspectFailed" not in world.condition("Accepted")["message"]
    await world.reconcile()
    assert world.job("inspect") is None
    assert await world.reconcile() == []


async def test_servers_that_run_stay_where_another_job_tells_of_another_size() -> None:
    world = await served_by_guess()
    before = world.args()
    world.lose(kinds.JOB, world.name_of("inspect"))
    await world.reconcile()
    world.end("inspect", Inspected(COMMIT, {**LLAMA, "num_hidden_layers": 120}, 55_000_000_000))
    assert "delete Job" in await world.reconcile()
    assert world.args() == before
    assert world.status["engine"]["outdated"] is True
    assert await world.reconcile() == [], "it looked once and for all"
    world.restart()
    world.relist()
    assert await world.reconcile() == []


@pytest.mark.parametrize("report", [UNREACHABLE, GATED])
async def test_a_failure_that_is_told_leaves_the_guess_to_servers_that_run(report: Failed) -> None:
    world = await served_by_guess()
    world.lose(kinds.JOB, world.name_of("inspect"))
    await world.reconcile()
    world.end("inspect", report)
    assert "delete Job" in await world.reconcile()
    assert (world.ready(), world.status["sizing"]["verdict"]) == ("Available", "Estimated")
    assert f"({report.reason.value})" in world.condition("Accepted")["message"]
    assert await world.reconcile() == []


async def test_another_operator_goes_by_the_guess_as_well() -> None:
    world = await served_by_guess()
    world.restart()
    world.relist()
    assert await world.reconcile() == []


async def test_an_attempt_without_a_report_that_is_followed_by_another_is_no_reason_to_guess() -> None:
    world = Jobs(model=GUESSED)
    await world.reconcile()
    world.end("inspect", None, last=False)
    await world.reconcile()
    assert (world.ready(), world.condition("Reconciling")["status"]) == ("NoReport", "True")
    assert world.job("preload") is None


async def test_an_attempt_that_is_followed_by_another_stalls_nothing() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    world.end("inspect", UNREACHABLE, last=False)
    await world.reconcile()
    assert world.ready() == "HubUnreachable"
    assert world.condition("Reconciling")["status"] == "True"


async def test_a_hub_that_does_not_answer_leaves_the_guess_for_good() -> None:
    """GPU pods do not move because the hub is back."""
    world = Jobs(model=GUESSED)
    await world.reconcile()
    world.end("inspect", UNREACHABLE)
    await world.reconcile()
    assert world.status["sizing"]["verdict"] == "Estimated"
    assert "InspectFailed" in world.condition("Accepted")["message"]
    assert "delete Job" in await world.reconcile()
    assert world.job("inspect") is None
    assert await world.reconcile() == []
    assert world.status["sizing"]["verdict"] == "Estimated"


async def test_servers_are_pinned_to_the_commit_that_was_brought() -> None:
    world = Jobs()
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1))
    await world.reconcile()
    assert world.args()[world.args().index("--revision") + 1] == COMMIT
    assert world.status["model"]["commit"] == COMMIT
    moved = Fetched(COMMIT[::-1], 1)
    world.end("preload", moved)  # somebody deleted the Job, and the branch has moved on
    assert await world.reconcile() == []
    assert world.args()[world.args().index("--revision") + 1] == COMMIT, "GPU pods stay"


async def test_servers_follow_as_soon_as_the_pod_of_the_preload_has_succeeded() -> None:
    world = Jobs()
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1), last=False)
    assert "apply Deployment" in await world.reconcile()
    assert COMMIT in world.args()


async def test_pods_of_another_job_say_nothing_of_the_one_that_servers_wait_for() -> None:
    world = Jobs()
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1), last=False)
    world.ask(model={"source": "hf://Qwen/Qwen3-8B", "tokenSecretRef": {"name": "token"}})
    calls = await world.reconcile()
    assert {"apply Job", "delete Job"} <= set(calls)
    assert "apply Deployment" not in calls
    assert world.condition("CacheReady")["reason"] == "Preloading"
    world.end("preload", Fetched(COMMIT, 1))
    assert "apply Deployment" in await world.reconcile()


async def test_pods_of_a_former_job_of_the_same_name_say_nothing_either() -> None:
    world = Jobs()
    await world.reconcile()
    job = world.job("preload")
    assert job
    world.end("preload", Fetched(COMMIT, 1), last=False)
    world.lose(kinds.JOB, job["metadata"]["name"])
    assert "apply Deployment" not in await world.reconcile()
    assert world.job("preload"), "and its pods are about to go"
    assert "apply Deployment" not in await world.reconcile()


async def test_a_preload_that_ends_during_a_pass_is_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose plan knows the commit: else servers would start twice."""
    world = Jobs()
    await world.reconcile()
    world.ask(service={"port": 8080})
    apply = world.api.apply

    async def meanwhile(
        manifest: Object, manager: str = FIELD_MANAGER, *, new: bool = False, dry_run: bool = False
    ) -> Object:
        if manifest["kind"] == "Service":
            world.end("preload", Fetched(COMMIT, 1))
        return await apply(manifest, manager, new=new, dry_run=dry_run)

    monkeypatch.setattr(world.api, "apply", meanwhile)
    calls = await world.reconcile()
    assert "apply Service" in calls
    assert "apply Deployment" not in calls
    assert "apply Deployment" in await world.reconcile()
    assert COMMIT in world.args()


async def test_pods_of_their_own_cache_get_one_commit() -> None:
    world = Jobs(cache={"ephemeral": True})
    await world.reconcile()
    assert world.ready() == "Inspecting"
    world.end("inspect", INSPECTED)
    await world.reconcile()
    assert world.args()[world.args().index("--revision") + 1] == COMMIT


async def test_a_failed_download_speaks_with_its_own_words() -> None:
    world = Jobs()
    await world.reconcile()
    world.end("preload", UNREACHABLE, last=False)
    await world.reconcile()
    assert world.ready() == "HubUnreachable"
    assert world.condition("Stalled")["status"] == "False"
    world.end("preload", Failed(Reason.SPACE, "16 GiB are missing: set cache.size"))
    await world.reconcile()
    assert world.ready() == "NoSpace"
    assert world.condition("CacheReady")["message"].startswith("16 GiB are missing: set cache.size")
    assert world.condition("Stalled")["status"] == "True"


async def test_a_download_says_how_far_it_is() -> None:
    world = Jobs()
    await world.reconcile()
    job = world.job("preload")
    assert job
    name = job["metadata"]["name"]
    pod = {
        "metadata": {
            "labels": {**labels("chat", "preload"), JOB_LABEL: name},
            "annotations": {RESOURCE_ANNOTATION: "chat"},
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "model", "state": {"running": {}}}]},
    }
    world.listener.pod_seen("ADDED", world.api.store("Pod", "p1", pod))
    assert (await world.reconciler.reconcile(KEY)).requeue_after == PROGRESS_SECONDS, "no line yet"
    world.api.logs["p1", "model", False] = "fetched 0.1 of 15.3 GiB (1 %)\nfetched 1.2 of 15.3 GiB (8 %)\n"
    assert (await world.reconciler.reconcile(KEY)).requeue_after == PROGRESS_SECONDS
    assert world.condition("CacheReady")["message"] == "1.2 of 15.3 GiB are downloaded (8 %)"
    assert await world.reconcile() == []


async def test_a_job_that_is_done_outlives_another_template() -> None:
    world = Jobs()
    await world.reconcile()
    world.end("preload", Fetched(COMMIT, 1))
    await world.reconcile()
    job = world.job("preload")
    assert job
    before = job["spec"]["template"]
    world.happen(kinds.JOB, job["metadata"]["name"], metadata={"labels": {}})  # drift, so that it is written again
    world.reconciler._defaults = type(world.reconciler._defaults)(fetch_image="operator:v2")
    assert "apply Job" in await world.reconcile()
    after = world.job("preload")
    assert after
    assert after["spec"]["template"] == before


async def test_a_job_that_is_stuck_gives_way() -> None:
    world = Jobs()
    await world.reconcile()
    world.reconciler._defaults = type(world.reconciler._defaults)(fetch_image="operator:v2")
    world.api.errors["apply Job"] = Blocked("Rejected", "field is immutable")
    assert "delete Job" in await world.fail(Transient)
    job = world.job("preload")
    assert job is None


QUOTA = "exceeded quota: compute, requested: limits.memory=4Gi, used: limits.memory=8Gi, limited: limits.memory=10Gi"
PRIVILEGED = 'violates PodSecurity "restricted:latest": runAsUser=0 (pod must not set runAsUser=0)'


def refuse(world: Jobs, component: str, why: str, **counts: int) -> None:
    """The Job's controller has tried to make a pod, and was told why not."""
    job = world.job(component)
    assert job
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    message = f'Error creating: pods "{name}-{world.api.version}" is forbidden: {why}'
    event = {"type": "Warning", "reason": "FailedCreate", "message": message, "involvedObject": {"uid": uid}}
    world.api.store("Event", name, event)
    world.happen(kinds.JOB, name, status={"startTime": "2026-01-01T00:00:00Z", **counts})


async def test_a_job_that_has_just_begun_is_given_a_moment() -> None:
    world = Jobs()
    await world.reconcile()
    refuse(world, "preload", QUOTA)
    job = world.job("preload")
    assert job
    begun = {"startTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    world.happen(kinds.JOB, job["metadata"]["name"], status=begun)
    assert (await world.reconciler.reconcile(KEY)).requeue_after == PATIENCE_SECONDS
    assert world.condition("CacheReady")["reason"] != "QuotaExceeded"


@pytest.mark.parametrize(("why", "reason"), [(QUOTA, "QuotaExceeded"), (PRIVILEGED, "ReplicaFailure")])
async def test_a_pod_that_is_not_admitted_is_told_of_its_job(why: str, reason: str) -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    refuse(world, "inspect", why)
    await world.reconcile()
    assert world.ready() == reason
    assert world.condition("Ready")["message"].endswith(f"it is not admitted: {why}")
    assert world.condition("Stalled")["status"] == "False", "a quota is raised, and the Job's controller tries again"
    assert await world.reconcile() == [], "it says so once"


async def test_a_preload_that_is_not_admitted_is_told_too() -> None:
    world = Jobs(model={"source": "hf://Qwen/Qwen3-8B"})
    await world.reconcile()
    refuse(world, "preload", QUOTA)
    await world.reconcile()
    assert world.condition("CacheReady")["reason"] == world.ready() == "QuotaExceeded"


async def test_a_job_that_has_made_pods_is_not_asked_about() -> None:
    world = Jobs(model=PRIVATE)
    await world.reconcile()
    refuse(world, "inspect", QUOTA, active=1)
    await world.reconcile()
    assert world.ready() == "Inspecting"
