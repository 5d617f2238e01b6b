"""Figures of a server pod that follow from how vLLM behaves: probes, shutdown, environment, memory beside the GPU.

Behaviour (vLLM 0.32): the port is closed until the model is loaded, so `/health` 200 means loaded. After SIGTERM
`/health` stays 200 and the port keeps accepting, but new requests get HTTP 500: nobody may have a connection by then.
How that is brought about is in `data/connection_draining.py`, which runs in the server's container.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil

from vllm_operator.api.engine_spec import EnvVar
from vllm_operator.api.quantity import to_bytes
from vllm_operator.api.spec import Lifecycle, Spec
from vllm_operator.engine.arguments import DRAINING_MODULE, is_cpu, kv_cache_bytes
from vllm_operator.engine.profiles import Settings
from vllm_operator.sizing.types import Sizing

GIB = 2**30
_STARTUP_PERIOD = 1  # half of it is what a start takes longer for being asked; a refused connection costs nothing
_TEARDOWN_SECONDS = 20  # what outlasts the drain is aborted (arguments.LAST_SECONDS), workers end 3 to 8 s later
_SCHEDULING_SECONDS = 600  # image pull, volume attach and waiting for a GPU, beside loading

CACHE_MOUNT = "/cache"  # compiled kernels, writable
HUB_MOUNT = "/models"  # HF_HOME: what the preload Job downloaded
DRAINING_MOUNT = "/etc/vllm-operator"
_PYTHON_PATH, _USER_PYTHON_PATH = "PYTHONPATH", "USER_PYTHONPATH"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds and counts of probes, shutdown and rollout."""

    startup_period: int
    startup_failures: int
    pre_stop: int
    grace: int
    progress_deadline: int


def timing(lifecycle: Lifecycle) -> Timing:
    """Probe and shutdown figures: grace covers the hook (pre-stop delay and drain) and the teardown of workers."""
    return Timing(
        startup_period=_STARTUP_PERIOD,
        startup_failures=ceil(lifecycle.startup_timeout_seconds / _STARTUP_PERIOD),
        pre_stop=lifecycle.pre_stop_seconds,
        grace=lifecycle.pre_stop_seconds + lifecycle.drain_seconds + _TEARDOWN_SECONDS,
        progress_deadline=lifecycle.startup_timeout_seconds + _SCHEDULING_SECONDS,
    )


def pre_stop(spec: Spec) -> dict[str, object] | None:
    """The hook that runs before SIGTERM, if there is one. An own server only waits: nothing is known of it."""
    lifecycle = spec.lifecycle
    if spec.engine.command:
        return {"sleep": {"seconds": lifecycle.pre_stop_seconds}} if lifecycle.pre_stop_seconds else None
    seconds = (str(lifecycle.pre_stop_seconds), str(lifecycle.drain_seconds))
    return {"exec": {"command": ["python3", "-I", "-S", f"{DRAINING_MOUNT}/{DRAINING_MODULE}.py", *seconds]}}


@cache
def draining_source() -> str:
    """The module that the hook runs and the server has as middleware."""
    return (files("vllm_operator.engine") / "data" / f"{DRAINING_MODULE}.py").read_text(encoding="utf-8")


def shared_memory(spec: Spec, sizing: Sizing) -> str:
    """Size of /dev/shm: workers exchange tensors through it (160 MiB broadcast, 240 MiB responses, and NCCL).

    KV cache that is kept in the memory of the node lies there too (vllm/v1/kv_offload/cpu/shared_offload_region.py).
    """
    return f"{_exchange(sizing) + ceil(_offloaded(spec) / 2**20)}Mi"


def _exchange(sizing: Sizing) -> int:
    """What workers need to exchange tensors, in MiB."""
    workers = sizing.tensor * sizing.pipeline
    return 1024 if workers == 1 else max(2048, 1024 + 256 * workers)


def _offloaded(spec: Spec) -> int:
    return to_bytes(spec.engine.kv_offload.size) if spec.engine.kv_offload else 0


def host_memory(spec: Spec, sizing: Sizing, chosen: Settings, weights_gib: float) -> tuple[str, str]:
    """Request and limit of the container's memory.

    On a GPU: Python and CUDA in every process, /dev/shm, and the pinned table of token ids (`max_num_seqs x
    max_model_len` int32, vllm/v1/worker/gpu/states.py); the limit leaves room for page cache while weights are read. On
    a CPU: the weights (up to float32) and the KV cache themselves. KV cache in the memory of the node comes on top.
    """
    if is_cpu(spec):
        request = 4 * GIB + ceil(2 * weights_gib * GIB) + (kv_cache_bytes(spec) or 0)
        return _gib(request), _gib(request)
    workers = sizing.tensor * sizing.pipeline
    pinned = chosen.max_sequences * (sizing.max_length or 131_072) * 4
    request = (4 + 3 * workers) * GIB + _exchange(sizing) * 2**20 + pinned
    return _gib(request + _offloaded(spec)), _gib(2 * request + _offloaded(spec))


def _gib(count: int) -> str:
    return f"{ceil(count / GIB)}Gi"


def environment(spec: Spec, told: Mapping[str, str], *, offline: bool) -> list[dict[str, object]]:
    """Environment of the server: where it may write, that it stays offline, what it is told, the user's own."""
    fixed = {
        **told,
        "HOME": CACHE_MOUNT,  # a folder that is there, writable, and outlives the pod
        "HF_HOME": HUB_MOUNT,
        # Python code that comes with a model is copied here; under HF_HOME, its default, it could not be written.
        "HF_MODULES_CACHE": "/tmp/modules",  # noqa: S108 - an emptyDir of the pod
        "TMPDIR": "/tmp",  # noqa: S108
        "VLLM_CACHE_ROOT": f"{CACHE_MOUNT}/vllm",
        "VLLM_CONFIG_ROOT": f"{CACHE_MOUNT}/config",
        # While vLLM compiles, it sets a folder of its own; this one is for what torch compiles outside of that.
        "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_MOUNT}/inductor",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(spec.lifecycle.startup_timeout_seconds),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "NO_COLOR": "1",
    }
    if offline:
        fixed["HF_HUB_OFFLINE"] = "1"
    if not spec.engine.command:
        fixed[_PYTHON_PATH] = DRAINING_MOUNT
    variables = []
    if spec.auth:
        key = spec.auth.api_key_secret_ref
        variables.append(secret_variable("VLLM_API_KEY", key.name, key.key))
    if spec.model.token_secret_ref and not offline:
        variables.append(token_variable(spec))
    return with_user_environment(fixed, variables, spec)


def token_variable(spec: Spec) -> dict[str, object]:
    """HF_TOKEN by reference; only called when the spec names a Secret."""
    reference = spec.model.token_secret_ref
    if reference is None:
        raise ValueError("no token Secret is named")
    return secret_variable("HF_TOKEN", reference.name, reference.key)


def secret_variable(name: str, secret: str, key: str) -> dict[str, object]:
    """A variable whose value never appears in the pod's spec."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def with_user_environment(
    fixed: Mapping[str, str], secrets: list[dict[str, object]], spec: Spec
) -> list[dict[str, object]]:
    """`engine.env` after our own variables, and instead of those of the same name: no name may come twice."""
    own = [variable for given in spec.engine.env for variable in _given(given, fixed)]
    names = {variable.name for variable in spec.engine.env}
    ours: list[dict[str, object]] = [{"name": name, "value": fixed[name]} for name in fixed if name not in names]
    return ours + secrets + own


def _given(variable: EnvVar, fixed: Mapping[str, str]) -> list[dict[str, object]]:
    """One of the user's variables; a PYTHONPATH follows ours, by which the server finds its middleware."""
    plain = variable.model_dump(by_alias=True, exclude_none=True)
    if variable.name != _PYTHON_PATH or _PYTHON_PATH not in fixed:
        return [plain]
    joined = {"name": _PYTHON_PATH, "value": f"{fixed[_PYTHON_PATH]}:$({_USER_PYTHON_PATH})"}
    return [{**plain, "name": _USER_PYTHON_PATH}, joined]
