"""Failures that vLLM itself tells of, or dies of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from node.support.broken import ADAPTER, OWN_CODE, UNKNOWN_ARCHITECTURE, WHOLE
from node.support.specs import SMALL, own, pod, resource, spec
from node.support.stories import Failure, Patient, Story
from node.support.workloads import claim

CPU_IMAGE, OTHER_IMAGE = "docker.io/vllm/vllm-openai-cpu:v0.32.0", "docker.io/vllm/vllm-openai-cpu:nightly"
"""One image under two names: of the version in the second one the operator knows nothing."""

_ADAPTER = {"name": "one", "source": f"hf://{ADAPTER}"}


def _raise_limit(patient: Patient) -> None:
    template = patient.service.body["spec"]["podTemplate"]["spec"]
    patient.service.edit(pod(volumes=template["volumes"]))


def _shorten(patient: Patient) -> None:
    """Do what the message says, to the number."""
    found = re.search(r"maxLength to at most (\d+)", patient.service.condition("Ready")["message"])
    assert found
    patient.service.edit({"model": {"maxLength": int(found[1])}})


_KILL = """
import glob, os
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if open(path, "rb").read().startswith(b"VLLM::EngineCore"):
        os.kill(int(path.split("/")[2]), 9)
"""


def _kill_engine(patient: Patient) -> None:
    patient.serves()
    patient.run("python3", "-c", _KILL)


# From what shows first to what shows last.
_ARGUMENTS = (
    Failure(
        "flag-refused",
        "InvalidArguments",
        "--swap-space was removed from vLLM: use ",
        {"engine": {"extraArgs": ["--frobnicate"], "image": OTHER_IMAGE}},
        condition="Accepted",
        stalled=True,
    ),
    Failure(
        "adapter-missing",
        "ModelNotFound",
        "check its name",
        {"engine": {"lora": {"adapters": [_ADAPTER]}}},
        condition="CacheReady",
        stalled=True,
    ),
    Failure("out-of-memory", "OOMKilled", "Raise resources.limits.memory", _raise_limit, stalled=False),
    Failure(
        "unknown-flag",
        "InvalidArguments",
        "Remove it from spec.engine.extraArgs",
        {"engine": {"extraArgs": None}},
        quotes="error: unrecognized arguments: --frobnicate",
        stalled=True,
    ),
    Failure(
        "context-too-long",
        "LengthBeyondModel",
        "Set spec.model.maxLength to at most 2048",
        {"model": {"maxLength": 2048}},
        quotes="User-specified max_model_len",
    ),
)
_MEMORY = (
    Failure(
        "shm-too-small",
        "SharedMemoryTooSmall",
        "Leave the volume shm as the operator makes it",
        {"podTemplate": {"spec": {"volumes": None}}},
        quotes="Insufficient space in /dev/shm",
    ),
    Failure(
        "kv-cache-too-small",
        "KVCacheTooSmall",
        "Set spec.model.maxLength to at most",
        _shorten,
        quotes="To serve at least one request",
    ),
    Failure(
        "lora-rank",
        "LoRARankTooHigh",
        "Raise spec.engine.lora.maxRank to at least 8",
        {"engine": {"lora": {"maxRank": 8}}},
        quotes="LoRA rank 8 is greater than max_lora_rank 1",
    ),
    Failure(
        "engine-killed",
        "EngineCrashed",
        "the container is started again",
        lambda _patient: None,
        provoke=_kill_engine,
        quotes="died unexpectedly|EngineDeadError|EngineCore",
        stalled=False,
    ),
)


def engine_story(hub: str) -> Story:
    """What is wrong with arguments and memory; when all of it is healed, the engine is killed."""
    mistyped = _ADAPTER | {"source": f"hf://{ADAPTER}-mistyped"}
    small_shm = {"medium": "Memory", "sizeLimit": "64Mi"}
    faults = {
        "model": {"maxLength": 4096},
        "engine": {
            "extraArgs": ["--frobnicate", "--swap-space=4"],
            "kvCacheMemory": "1Mi",
            "lora": {"adapters": [mistyped], "maxRank": 1},
        },
        **pod({**SMALL, "limits": {"memory": "200Mi"}}, volumes=[{"name": "shm", "emptyDir": small_shm}]),
    }
    return Story("engine", spec(hub, faults), (*_ARGUMENTS, *_MEMORY))


def _damage_cache(patient: Patient) -> None:
    """Make a claim that holds the whole model, fetched for another resource, but for the bytes of its weights."""
    shared = {"cache": {"claimName": "models", "size": "auto", "reclaimPolicy": "Retain"}}
    patient.apply(claim("models", mode="ReadWriteMany"))
    patient.apply(resource("fetched", own(patient.stage.hub.endpoint, shared)))
    replace(patient, service=replace(patient.service, name="fetched")).serves()
    (weights,) = _weights(patient)
    weights.write_bytes(b"\xff" * weights.stat().st_size)


def _weights(patient: Patient) -> list[Path]:
    """Return the files behind the links; they are in the node's namespace, which a resolved path would lose."""
    folder = patient.stage.cluster.claim_folder(patient.stage.kubectl, "models")
    links = folder.glob(f"hub/hub/models--{WHOLE.replace('/', '--')}/snapshots/*/model.safetensors")
    return [link.parent / link.readlink() for link in links]


def _fetch_again(patient: Patient) -> None:
    for path in _weights(patient):
        path.unlink()
    patient.delete_job("preload")


_MODEL = (
    Failure(
        "no-gpu",
        "Unschedulable",
        "No node has 1 nvidia.com/gpu free. Wait for one, add nodes",
        lambda patient: patient.stage.cluster.set_gpus("NVIDIA-L4", 1),
        stalled=False,
    ),
    Failure(
        "unknown-architecture",
        "UnsupportedArchitecture",
        "spec.model.source",
        {"model": {"source": f"hf://{OWN_CODE}"}},
        quotes="Model architectures .'NopeForCausalLM'. are not supported for now",
    ),
    Failure(
        "remote-code",
        "RemoteCodeRequired",
        "set spec.model.trustRemoteCode to true",
        {"model": {"trustRemoteCode": True}},
        quotes="contains custom code which must be executed",
    ),
    Failure(
        "wrong-quantization",
        "QuantizationInvalid",
        "Leave spec.model.quantization unset",
        {"model": {"quantization": None}},
        quotes="Cannot find the config file for awq",
    ),
    Failure(
        "broken-tokenizer",
        "TokenizerInvalid",
        "Let spec.model.source name a checkpoint whose tokenizer files are whole",
        {"model": {"source": f"hf://{WHOLE}"}},
        quotes="added_tokens",
    ),
    Failure(
        "utilisation-too-high",
        "MemoryBusy",
        "Set spec.engine.kvCacheMemory",
        {"engine": {"kvCacheMemory": "64Mi"}},
        quotes="on startup is less than desired CPU memory utilization",
        stalled=False,
    ),
    Failure(
        "damaged-weights",
        "WeightsCorrupt",
        "Delete the file from the cache and let the preload Job run again",
        _fetch_again,
        quotes="SafetensorError",
    ),
)


def model_story(hub: str) -> Story:
    """What is wrong with models, on a pod that asks for a GPU."""
    faults = {
        "model": {"source": f"hf://{UNKNOWN_ARCHITECTURE}", "quantization": "awq"},
        "gpu": {"count": 1, "memoryUtilization": 0.98},
        "sizing": {"mode": "Off"},
        "engine": {"kvCacheMemory": None},
        "cache": {"claimName": "models", "size": "auto", "reclaimPolicy": "Retain"},
    }
    return Story("model", spec(hub, faults), _MODEL, before=_damage_cache)
