"""Pods of a resource as the API server shows them: running, waiting, crashed, without a node."""

from __future__ import annotations

from typing import Any

from vllm_operator.naming import Key, labels

KEY = Key("team-a", "chat")
Object = dict[str, Any]
START = "2026-01-01T00:00:00Z"

SPEC: Object = {
    "nodeName": "node-1",
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
    "terminationGracePeriodSeconds": 95,
    "containers": [
        {
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.32.0",
            "resources": {"limits": {"memory": "24Gi", "nvidia.com/gpu": "2"}},
            "startupProbe": {"periodSeconds": 10, "failureThreshold": 180},
        }
    ],
}


def container(state: str, ready: bool = False, restarts: int = 0, **fields: Any) -> Object:  # noqa: FBT001, FBT002, ANN401
    """A container status; `fields` are those of the state, and `last` the end of the run before."""
    last = fields.pop("last", None)
    body = {"name": "vllm", "ready": ready, "restartCount": restarts, "state": {state: fields}}
    return {**body, "lastState": {"terminated": last}} if last else body


def ended(code: int, reason: str = "Error", message: str = "", until: str = "2026-01-01T00:01:00Z") -> Object:
    found = {"exitCode": code, "reason": reason, "startedAt": START, "finishedAt": until}
    return {**found, "message": message} if message else found


def pod(*containers: Object, name: str = "chat-1", template: str = "rs-1", created: str = START, **more: Any) -> Object:  # noqa: ANN401
    kind = more.pop("kind", "ReplicaSet")
    component = more.pop("component", "server")
    metadata = {
        "name": name,
        "namespace": "team-a",
        "uid": f"uid-{name}",
        "labels": labels("chat", component),
        "creationTimestamp": created,
        "ownerReferences": [{"kind": kind, "uid": template, "controller": True}],
        **more.pop("metadata", {}),
    }
    status = {"phase": "Pending", "containerStatuses": list(containers), **more}
    return {"metadata": metadata, "spec": SPEC, "status": status}


def unplaced(message: str, **fields: Any) -> Object:  # noqa: ANN401
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {**pod(conditions=[said], **fields), "spec": {**SPEC, "nodeName": None}}


def crash(number: int = 1, code: int = 1, reason: str = "Error", **fields: Any) -> Object:  # noqa: ANN401
    """A pod whose container has ended `number` times and waits for the next start."""
    last = ended(code, reason, fields.pop("message", ""))
    return pod(container("waiting", restarts=number - 1, reason="CrashLoopBackOff", last=last), **fields)


RUNNING = container("running", ready=True)
