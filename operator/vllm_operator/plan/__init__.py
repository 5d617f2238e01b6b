"""What should exist for a resource: a pure function of its spec and of what was observed."""

from __future__ import annotations

from dataclasses import replace

from vllm_operator.api.parse import Resource
from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import arguments, is_cpu
from vllm_operator.engine.contract import Findings, check_engine
from vllm_operator.engine.profiles import settings
from vllm_operator.engine.version import engine_version
from vllm_operator.errors import InvalidSpec
from vllm_operator.plan import cache, inspection, monitoring, network, scaling, workload
from vllm_operator.plan.inputs import as_running
from vllm_operator.plan.loader import versioned_image
from vllm_operator.plan.model import is_sized, resolve_draft, resolve_model, unknown_model, weights_gib
from vllm_operator.plan.size import cache_too_large, judge, size_spec, unsized
from vllm_operator.plan.types import Child, Defaults, Facts, Inspection, Plan, Refusal, ResolvedModel, Warn
from vllm_operator.report import is_commit
from vllm_operator.sizing.tables import Tables
from vllm_operator.sizing.types import Sizing, Verdict

__all__ = ["make_plan"]


def make_plan(resource: Resource, defaults: Defaults, facts: Facts) -> Plan:
    """Everything that should exist for a resource, or why it should not. Raises for no spec that parsed."""
    spec = resource.spec
    defaults = as_running(spec, defaults, facts)
    image = versioned_image(spec, defaults)
    engine = check_engine(spec, image)
    plan = Plan(resource, settings(spec), engine_version(image), warnings=_engine_warnings(engine))
    if refusal := _misuse(spec, engine):
        return replace(plan, refusal=refusal)
    try:
        resolved = resolve_model(spec, defaults.tables, facts.inspection)
    except InvalidSpec as error:
        return replace(plan, refusal=Refusal("ModelResolved", error.reason, error.problems))
    model = replace(resolved, draft=resolve_draft(spec, defaults.tables))
    plan = replace(plan, model=model, commit=_commit(spec, resource.name, facts))
    if inspection.concerns(spec, model, facts):
        plan = replace(plan, inspection=facts.inspection, waiting=inspection.waiting(spec, model, facts.inspection))
        if plan.waiting:
            looking = (network.service_account(resource.name), inspection.inspect_job(spec, resource.name, defaults))
            return replace(plan, children=looking)
    sizing = _size(plan, model, facts, defaults.tables)
    if isinstance(sizing, Refusal):
        return replace(plan, refusal=sizing)
    plan = replace(plan, sizing=sizing)
    if refusal := judge(spec, sizing):
        return replace(plan, refusal=refusal)
    return _with_children(plan, sizing, model, defaults, facts)


def _misuse(spec: Spec, engine: Findings) -> Refusal | None:
    """What is wrong with the free-form parts of a spec."""
    if engine.problems:
        return Refusal("Accepted", "InvalidArguments", engine.problems)
    if problems := workload.overlay_problems(spec):
        return Refusal("Accepted", "InvalidPodTemplate", problems)
    return None


def _commit(spec: Spec, name: str, facts: Facts) -> str:
    """What the revision means for this resource: once pods serve a commit, a branch that moves on changes nothing.

    Another claim may hold another commit alone, as may one that was made anew while nothing ran.
    """
    if is_commit(spec.model.revision):
        return spec.model.revision
    running = facts.workload
    served = running.commit if running and cache.reads_the_same(spec, name, running) else ""
    inspected = facts.inspection.commit if facts.inspection else ""
    if running and running.replicas == 0:
        return facts.commit or served or inspected
    return served or facts.commit or inspected


def _size(plan: Plan, model: ResolvedModel, facts: Facts, tables: Tables) -> Sizing | Refusal:
    spec = plan.resource.spec
    if not is_sized(spec):
        return unsized(spec, tables)
    if model.facts is None:
        return Refusal("ModelResolved", "UnknownModel", (unknown_model(spec),))
    return size_spec(plan, model.facts, facts, tables)


def _with_children(plan: Plan, sizing: Sizing, model: ResolvedModel, defaults: Defaults, facts: Facts) -> Plan:
    spec, name = plan.resource.spec, plan.resource.name
    weights = weights_gib(model.facts) if model.facts else None
    args = arguments(spec, sizing, plan.settings, plan.commit)
    digest = cache.model_digest(spec)
    draft = weights_gib(model.draft) if model.draft else None
    chosen = cache.storage(spec, cache.Sizes(weights, draft), facts.claim)
    own_claim = cache.has_cache(spec) and not spec.cache.claim_name
    held = cache.is_held(spec, digest, facts)
    single_node = cache.is_single_node(spec, facts)
    children: list[Child] = [network.service_account(name)]
    if plan.inspection and not plan.inspection.settled:
        children.append(inspection.inspect_job(spec, name, defaults))
    if own_claim:
        children.append(cache.claim(spec, name, chosen, digest if held else ""))
    children += network.network_policies(spec, name)
    if cache.preloads(spec):
        beside = workload.placement(spec, sizing) if single_node else None
        children.append(cache.preload(spec, name, defaults, beside))
    children.append(network.service(spec, name))
    launch = workload.Launch(args, digest, plan.commit, (weights or 0) + (draft or 0), single_node)
    children.append(workload.deployment(plan, sizing, defaults, launch))
    children += scaling.autoscalers(spec, name, plan.settings)
    children += scaling.disruption_budgets(spec, name)
    children += monitoring.monitoring(spec, name, plan.resource.namespace)
    return replace(
        plan,
        arguments=tuple(args),
        children=tuple(children),
        warnings=(
            *plan.warnings,
            *_warnings(spec, sizing, plan.inspection),
            *_doubts(plan, sizing, facts, single_node=single_node),
        ),
        storage_problem=chosen.problem if own_claim else "",
        held=held,
        weights_gib=weights,
        handover_replicas=workload.handover(spec, facts.workload),
    )


def _engine_warnings(engine: Findings) -> tuple[Warn, ...]:
    """What the image's vLLM may not understand, and code that arguments load."""
    found = [Warn("ArgumentsUnchecked", doubt) for doubt in engine.doubts]
    if engine.plugins:
        found.append(Warn("PluginCode", f"{', '.join(engine.plugins)}: code that the operator knows nothing of runs"))
    return tuple(found)


def _doubts(plan: Plan, sizing: Sizing, facts: Facts, *, single_node: bool) -> list[Warn]:
    """What the cluster may be unable to hold: a GPU chosen without a look at nodes, replicas on a claim of one node."""
    spec, found = plan.resource.spec, []
    if facts.offers is None and not spec.gpu.product and not spec.gpu.memory and sizing.gpu:
        said = f"no nodes were looked at: {sizing.gpu.product} is a guess from the GPU table; name gpu.product"
        found.append(Warn("NodesUnknown", said))
    if spec.most_replicas > 1 and single_node:
        said = (
            f"one node at a time can mount the claim {cache.mounted_claim(spec, plan.resource.name)}, and all "
            f"{spec.most_replicas} replicas must find room there: use one replica, or name a ReadWriteMany claim in "
            f"{'cache.claimName' if cache.has_cache(spec) else 'model.source'}"
        )
        found.append(Warn("SingleNodeClaim", said))
    return found


def _warnings(spec: Spec, sizing: Sizing, failed: Inspection | None) -> tuple[Warn, ...]:
    """Red lines that are crossed knowingly."""
    found = []
    if failed and failed.reason:
        found.append(Warn("InspectFailed", f"no Job could look at the model ({failed.reason}): {failed.message}"))
    if sizing.verdict is Verdict.ESTIMATED:
        found.append(Warn("SizeEstimated", f"not all that is loaded is known: {sizing.explanation}"))
    if sizing.verdict in (Verdict.REFUSED, Verdict.TIGHT):
        why = "; ".join(reason.message for reason in sizing.reasons) or sizing.explanation
        found.append(Warn("SizeNotSafe", f"started because sizing.mode is Advisory: {why}"))
    if problem := cache_too_large(spec, sizing):
        found.append(Warn("SizeNotSafe", f"started because sizing.mode is Advisory: {problem}"))
    if spec.sizing.mode == "Off" and not is_cpu(spec):
        found.append(Warn("SizeUnchecked", "sizing.mode is Off: nothing says that the model fits"))
    if spec.model.trust_remote_code:
        found.append(Warn("RemoteCode", "model.trustRemoteCode runs Python code that comes with the model"))
    if spec.auth and spec.network_policy is None and spec.service.type == "LoadBalancer":
        found.append(
            Warn(
                "NetworkPolicyClosed",
                "the API key leaves other paths of vLLM open, so port 8000 is closed to all but this namespace: name "
                "who may reach it through the load balancer in spec.networkPolicy.from",
            )
        )
    return tuple(found)
