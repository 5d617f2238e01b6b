"""What the demo prints: the resources, their children, the sizing in words, and what to try next."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from demo.stage import NAME, PREREQUISITES, SAMPLES, TOO_LARGE, Stage, condition, is_ready
from operator_process import ROOT

Manifest = dict[str, Any]

_WIDEST = 110
_RESOURCE = "vllm-operator.dev/resource"  # annotation of every child: the name of its resource
_KINDS = (
    "deployments",
    "services",
    "persistentvolumeclaims",
    "jobs",
    "horizontalpodautoscalers",
    "poddisruptionbudgets",
    "networkpolicies",
    "configmaps",
    "serviceaccounts",
)


def heading(text: str) -> None:
    """Print the title of a section."""
    print(f"\n{text}\n{'-' * len(text)}")


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def paragraph(name: str, text: str) -> None:
    """Print a text under a name, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    print(name)
    print(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def resources(found: Iterable[Manifest]) -> None:
    """One line per resource: what was chosen for it, and whether it is Ready."""
    head = ("NAME", "READY", "GPU", "GPUS", "TP", "PP", "VERDICT", "REASON")
    table([head, *(_row(one) for one in found)])


def _row(resource: Manifest) -> tuple[str, ...]:
    sizing = (resource.get("status") or {}).get("sizing") or {}
    chosen = [str(sizing.get(key) or "-") for key in ("gpu", "gpusPerReplica", "tensorParallel", "pipelineParallel")]
    ready = condition(resource, "Ready")
    return (resource["metadata"]["name"], ready["status"], *chosen, sizing.get("verdict", "-"), ready["reason"])


def children(stage: Stage, found: Iterable[Manifest]) -> None:
    """The objects that each resource has become."""
    made: dict[str, list[str]] = {}
    for child in stage.children(_KINDS):
        owner = child["metadata"]["annotations"][_RESOURCE]
        made.setdefault(owner, []).append(_child(child))
    for one in found:
        name = one["metadata"]["name"]
        paragraph(name, ", ".join(made.get(name, [])) or "nothing: it was refused")


def _child(child: Manifest) -> str:
    kind, spec, status = child["kind"], child.get("spec") or {}, child.get("status") or {}
    said = {
        "Deployment": f" {status.get('readyReplicas', 0)}/{spec.get('replicas')}",
        "PersistentVolumeClaim": f" {status.get('capacity', {}).get('storage', '')} {status.get('phase', '')}",
        "Job": f" {_job_state(status)}",
        "HorizontalPodAutoscaler": f" {spec.get('minReplicas')}-{spec.get('maxReplicas')}",
    }
    return f"{kind}{said.get(kind, '')}"


def _job_state(status: Mapping[str, Any]) -> str:
    done = [one["type"] for one in status.get("conditions") or () if one["status"] == "True"]
    return "Complete" if "Complete" in done else "Running"


def explanations(found: Iterable[Manifest]) -> None:
    """Why each resource got the GPUs it got, in the operator's words."""
    for one in found:
        sizing = (one.get("status") or {}).get("sizing") or {}
        why = sizing.get("explanation") or condition(one, "Ready")["message"]
        paragraph(one["metadata"]["name"], why if is_ready(one) else f"Refused: {why}")


def nobody_answers(reason: str) -> None:
    """Why there is no chat answer: containers run on a real node only."""
    paragraph("Not here: on simulated nodes pods become Ready, but no container runs.", f"{reason}.")


def next_steps(stage: Stage) -> None:
    """Commands to copy."""
    samples, folder = SAMPLES.relative_to(ROOT), stage.cluster.folder
    commands = (
        (f"export KUBECONFIG={stage.cluster.kubeconfig} PATH={stage.programs}:$PATH", f"then, in namespace {NAME}:"),
        ("kubectl get vd chat --output=yaml", "what vLLM made of its memory is in status.sizing.measured"),
        ("kubectl logs deployment/chat", "the log of the real vLLM"),
        ("kubectl get vllmdeployments --output=wide", "the resources; short names are vd and vllm"),
        ("kubectl describe vd mistral-7b", "conditions, sizing, events"),
        ("kubectl scale vd mistral-7b --replicas=3", "as with a Deployment"),
        ("kubectl delete deployment llama-8b", "it comes back"),
        (f"kubectl describe vd {TOO_LARGE.stem}", "a refusal, with the nearest fit"),
        ("kubectl explain vd.spec.gpu", "any field"),
        ("kubectl vllm size meta-llama/Llama-3.1-70B-Instruct", "which GPUs a model needs, and why"),
        (f"kubectl vllm render {samples / 'lora.yaml'}", "what would be created, without a cluster"),
        (f"kubectl vllm diff --namespace={NAME} {samples / 'mistral-7b.yaml'}", "what applying it would change"),
        (f"kubectl apply -f {samples}/ -f {PREREQUISITES.parent.relative_to(ROOT)}/", "all the samples"),
        (f"tail -f {folder / 'operator.log'}", "what the operator does"),
        ("make demo-down", "stop and remove everything"),
    )
    for command, why in commands:
        print(f"  {command}\n      # {why}")
