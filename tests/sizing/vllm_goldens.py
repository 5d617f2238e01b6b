"""Ask vLLM's own classes for bytes per rank, on torch's meta device: no GPU, no weights, no download.

Run with an environment that has a CPU build of vLLM, torch and torchvision (not this project's environment):
    python tests/sizing/vllm_goldens.py CONFIGS OUTPUT.json [NAME ...]
CONFIGS holds one folder a model with its config.json. Every model is built at tensor-parallel sizes 1, 2, 4 and 8 with
a faked group of that size; parameters and buffers are summed. PRETEND_HOPPER=1 lets the CPU build choose kernels of
compute capability 9.0, which MXFP4 needs. Encoders are left out (image, video and audio limits are 0).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SIZES = (1, 2, 4, 8)
Answer = dict[str, Any]


def load(module: str) -> Any:  # noqa: ANN401 - vLLM and torch are not among this project's requirements: no types
    """Import by name."""
    return import_module(module)


def start_groups() -> None:
    """Groups of one process; their size is faked afterwards."""
    state, config = load("vllm.distributed.parallel_state"), load("vllm.config")
    store = Path(tempfile.mkdtemp()) / "store"
    state.init_distributed_environment(1, 0, f"file://{store}", 0, backend="gloo")
    with config.set_current_vllm_config(config.VllmConfig()):
        state.initialize_model_parallel(1, 1)


def pretend_hopper() -> None:
    """Let the CPU build choose the kernels of compute capability 9.0: only shapes are made, nothing runs."""
    capability = load("vllm.platforms.interface").DeviceCapability(9, 0)
    kind = type(load("vllm.platforms").current_platform)
    kind.is_cuda = lambda _self: True
    kind.is_cuda_alike = lambda _self: True
    kind.is_cpu = lambda _self: False
    kind.get_device_capability = classmethod(lambda _cls, *_args, **_kwargs: capability)


def without_remote_code(folder: Path) -> Path:
    """A copy of the config that does not name Python files nobody has."""
    copy = Path(tempfile.mkdtemp()) / folder.name
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


def config_of(folder: Path, tensor: int) -> Any:  # noqa: ANN401 - see load
    """vLLM's configuration for the model, as if it ran on `tensor` ranks."""
    args = load("vllm.engine.arg_utils").EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=16,
        max_num_batched_tokens=2048,
        load_format="dummy",
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 0},
        dtype="bfloat16",
    )
    built = args.create_engine_config()
    built.parallel_config.tensor_parallel_size = tensor
    return built


def build(folder: Path, tensor: int) -> Answer:
    """Bytes of every distinct parameter and buffer of the model on one of `tensor` ranks."""
    torch, config = load("torch"), config_of(without_remote_code(folder), tensor)
    if os.environ.get("PRETEND_HOPPER"):
        pretend_hopper()
    load("vllm.distributed.parallel_state")._TP.world_size = tensor
    load("vllm.model_executor.layers.rotary_embedding")._ROPE_DICT.clear()
    with load("vllm.config").set_current_vllm_config(config), torch.device("meta"):
        cls, _ = load("vllm.model_executor.model_loader.utils").get_model_architecture(config.model_config)
        torch.set_default_dtype(config.model_config.dtype)
        model = cls(vllm_config=config, prefix="")
        torch.set_default_dtype(torch.float32)
    tensors = {id(one): one for one in [*model.parameters(), *model.buffers()]}
    return {"architecture": cls.__name__, "bytes": sum(one.numel() * one.element_size() for one in tensors.values())}


def attempt(folder: Path, tensor: int) -> Answer:
    """What `build` says, or how vLLM refused."""
    try:
        return build(folder, tensor)
    except Exception as error:  # noqa: BLE001 - what vLLM refuses, and how, is part of the answer
        return {"refused": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Write the answers after every model, so that a crash loses one."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    names = sys.argv[3:] or sorted(path.name for path in source.iterdir() if path.is_dir())
    start_groups()
    models: dict[str, Answer] = json.loads(target.read_text(encoding="utf-8"))["models"] if target.exists() else {}
    for name in names:
        models[name] = {f"tp{tensor}": attempt(source / name, tensor) for tensor in SIZES}
        print(name, models[name], flush=True)
        content = {"vllm": load("vllm").__version__, "models": models}
        target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
