"""What holds of every plan, whatever is asked for: any valid spec, sized or refused, on the nodes of the local cluster.

One test holds all laws to one drawn spec: drawing takes longer than planning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import event, example, given, settings

from kstatus import kstatus
from objects import fields_v1
from planning import UID, fleet_offers, plan_of, spec_of
from podsecurity import containers, violations
from strategies import resource_names, spoilt_pod_templates, valid_specs
from vllm_operator.api.status import Status
from vllm_operator.cluster import schema_errors
from vllm_operator.keeping import recorded
from vllm_operator.naming import FIELD_MANAGER, child_name, labels, selector
from vllm_operator.observed import Live, live_claim, live_workload, reduce
from vllm_operator.ownership import manifest_digest
from vllm_operator.plan.types import Facts, Plan
from vllm_operator.render import render
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.types import Verdict
from vllm_operator.status import Observation, make_status

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SECRET_VARIABLES = ("HF_TOKEN", "VLLM_API_KEY")
Manifest = dict[str, Any]


def kind_of(manifest: Manifest) -> str:
    return str(manifest["kind"])


def templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Pod templates of the Deployment and the preload Job."""
    for manifest in manifests:
        if kind_of(manifest) in ("Deployment", "Job"):
            yield kind_of(manifest), manifest["spec"]["template"]


def check_sizes(plan: Plan) -> None:
    sizing = plan.sizing
    if sizing is None or sizing.verdict is Verdict.SKIPPED or not sizing.gpus:
        return
    assert sizing.tensor * sizing.pipeline == sizing.gpus
    assert sizing.nodes == 1 or plan.refusal
    facts = plan.model.facts if plan.model else None
    if isinstance(facts, ModelFacts) and plan.refusal is None:
        assert facts.heads % sizing.tensor == 0
        assert sizing.max_length is None or 0 < sizing.max_length <= (facts.max_length or sizing.max_length)


def check_identity(plan: Plan, manifests: list[Manifest]) -> None:
    name = plan.resource.name
    identities = [(kind_of(one), one["metadata"]["name"]) for one in manifests]
    assert len(set(identities)) == len(identities)
    for child, manifest in zip(plan.children, manifests, strict=True):
        metadata = manifest["metadata"]
        assert DNS_LABEL.fullmatch(metadata["name"])
        assert metadata["namespace"] == "team-a"
        assert metadata["labels"].items() >= labels(name, child.component).items()
        assert metadata["annotations"]["vllm-operator.dev/resource"] == name
        owners = [owner["uid"] for owner in metadata.get("ownerReferences", ())]
        assert owners == ([UID] if child.owned else [])
    retained = {kind for child, (kind, _) in zip(plan.children, identities, strict=True) if not child.owned}
    assert retained <= {"PersistentVolumeClaim"}, "only a cache may outlive its resource"


def check_pods(plan: Plan, manifests: list[Manifest]) -> None:
    overlay = plan.resource.spec.pod_template.get("spec", {})
    users = {one["name"] for one in overlay.get("containers", ())}
    for _, template in templates(manifests):
        pod = template["spec"]
        assert [found for found in violations(pod) if found.split(":")[0] not in users] == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a Service named vllm would become VLLM_PORT"
        names = [volume["name"] for volume in pod["volumes"]]
        assert len(set(names)) == len(names)
        for container in containers(pod):
            if container["name"] not in users:
                check_container(container, set(names))


def check_container(container: Mapping[str, Any], volumes: set[str]) -> None:
    mounts = container["volumeMounts"]
    assert {mount["name"] for mount in mounts} <= volumes
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    variables = [variable["name"] for variable in container["env"]]
    assert len(set(variables)) == len(variables), "the API server refuses a name that comes twice"
    assert all(isinstance(word, str) for word in [*container["command"], *container.get("args", ())])
    assert container["resources"]["limits"]["memory"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    for variable in container["env"]:
        assert variable["name"] not in SECRET_VARIABLES or set(variable) == {"name", "valueFrom"}


def check_connections(plan: Plan, by_kind: Mapping[str, Manifest]) -> None:
    """Everything that finds pods finds the servers' pods, and no others."""
    name, wanted = plan.resource.name, selector(plan.resource.name)
    deployment = by_kind["Deployment"]
    pods = deployment["spec"]["template"]["metadata"]["labels"]
    assert wanted.items() <= pods.items()
    assert deployment["spec"]["selector"]["matchLabels"] == wanted
    assert by_kind["Service"]["spec"]["selector"] == wanted
    found = [by_kind[kind]["spec"] for kind in ("PodDisruptionBudget", "PodMonitor") if kind in by_kind]
    assert all(spec["selector"]["matchLabels"] == wanted for spec in found)
    if policy := by_kind.get("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"] == wanted
    if autoscaler := by_kind.get("HorizontalPodAutoscaler"):
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == child_name(name)
    if job := by_kind.get("Job"):
        assert not wanted.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def check_scale(plan: Plan, by_kind: Mapping[str, Manifest]) -> None:
    spec = plan.resource.spec
    autoscaled = spec.autoscaling is not None and not spec.suspend
    assert ("replicas" not in by_kind["Deployment"]["spec"]) == autoscaled
    assert ("HorizontalPodAutoscaler" in by_kind) == autoscaled
    assert ("PodDisruptionBudget" in by_kind) == (spec.most_replicas > 1)
    update = by_kind["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert update["maxSurge"] + update["maxUnavailable"] == 1
    server = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    limits = {key: value for key, value in server["resources"]["limits"].items() if key not in ("cpu", "memory")}
    assert plan.sizing is not None
    assert [int(value) for value in limits.values()] == ([plan.sizing.gpus] if spec.gpu.count != 0 else [])


def check_status(plan: Plan) -> None:
    status = make_status(Observation(plan), {}, "2026-01-01T00:00:00Z")
    Status.model_validate(status, by_alias=True, by_name=False)
    assert make_status(Observation(plan), json.loads(json.dumps(status)), "2026-02-02T00:00:00Z") == status
    expected = "Failed" if plan.refusal else "InProgress"
    assert kstatus({"metadata": {"generation": 1}, "status": status}) == expected


def live(manifest: Manifest) -> Live:
    """The part that is kept of an object that was applied."""
    applied = recorded(manifest)
    held = [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields_v1(applied)}]
    stamped = {**applied["metadata"], "uid": "u", "resourceVersion": "1", "managedFields": held}
    return reduce({**applied, "metadata": stamped})


def check_idempotence(raw: Mapping[str, Any], name: str, plan: Plan, by_kind: Mapping[str, Manifest]) -> None:
    """Planned again once all of it is there, the same should be there."""
    claim = by_kind.get("PersistentVolumeClaim")
    there = Facts(
        offers=fleet_offers(),
        claim=live_claim(live(claim)) if claim else None,
        workload=live_workload(live(by_kind["Deployment"])),
        previous_product=plan.sizing.gpu.product if plan.sizing and plan.sizing.gpu else "",
    )
    again = {kind_of(one): one for one in render(plan_of(raw, there, name=name))}
    assert again == by_kind


def check(raw: Mapping[str, Any], name: str) -> Plan:
    """Plan, render and judge one spec, and hold the result to every law."""
    plan = plan_of(raw, name=name)
    assert plan == plan_of(raw, name=name), "the same question has the same answer"
    check_sizes(plan)
    check_status(plan)
    if plan.refusal:
        assert plan.children == ()
        assert plan.refusal.problems
        assert all(problem.sentence for problem in plan.refusal.problems)
        return plan
    manifests = render(plan)
    assert manifests == render(plan)
    assert [error for one in manifests for error in schema_errors(one)] == []
    assert json.loads(json.dumps(manifests)) == manifests, "nothing but JSON"
    by_kind = {kind_of(one): one for one in manifests}
    check_identity(plan, manifests)
    check_pods(plan, manifests)
    check_connections(plan, by_kind)
    check_scale(plan, by_kind)
    check_idempotence(raw, name, plan, by_kind)
    return plan


def without_refusals(raw: dict[str, Any]) -> dict[str, Any]:
    """The same wishes with the reasons for refusal taken away: extra arguments and names of parsers.

    The numbers are the user's.
    """
    named = ("extraArgs", "toolCalling", "reasoning")
    engine = {key: value for key, value in raw.get("engine", {}).items() if key not in named}
    model = {key: value for key, value in raw["model"].items() if key != "facts"}
    gpu = raw.get("gpu", {})
    count = 4 if gpu.get("count", "auto") == "auto" else gpu["count"]
    shape = {key: value for key, value in raw.get("parallelism", {}).items() if key != "nodes"}
    return {
        **raw,
        "model": model,
        "engine": engine,
        "gpu": {**gpu, "count": count},
        "parallelism": shape,
        "sizing": {"mode": "Off"},
    }


@settings(max_examples=25)
@given(valid_specs(), resource_names())
@example({"model": {"source": "hf://Qwen/Qwen3-8B"}}, "chat.v2")
@example({"model": {"source": "hf://Qwen/Qwen3-8B"}, "autoscaling": {"maxReplicas": 9}, "suspend": True}, "4" * 253)
def test_the_laws_of_plans(raw: dict[str, Any], name: str) -> None:
    plan = check(raw, name)
    event("refused" if plan.refusal else "planned")
    if plan.refusal:
        assert check(without_refusals(raw), name).refusal is None


# With and without a Job before the servers: its pod takes over some of the template.
@settings(max_examples=400)
@given(spoilt_pod_templates())
@example({"spec": {"volumes": [{"name": ["x"]}]}})
@example({"spec": {"hostAliases": [{"$patch": "merge"}]}})
@example({"spec": {"imagePullSecrets": [{"$patch": None}]}})
@example({"spec": {"securityContext": {"$retainKeys": True}}})
@example({"spec": {"containers": [{"name": "a", "env": [{}]}, {"name": "a", "env": [{"name": "b"}]}]}})
def test_any_pod_template_is_planned_or_refused(template: dict[str, Any]) -> None:
    """What the API server will not take must get as far as the API server, whose words the user reads."""
    for fields in ({}, {"cache": {"ephemeral": True}}):
        plan = plan_of(spec_of(podTemplate=template, **fields))
        check_status(plan)
        for manifest in render(plan) if plan.refusal is None else ():
            assert re.fullmatch(r"[0-9a-f]+", manifest_digest(manifest))
            json.dumps(manifest)
            schema_errors(manifest)
