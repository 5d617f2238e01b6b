"""Which files of a repository vLLM needs.

Source: vllm/model_executor/model_loader/default_loader.py (formats in order of preference, the index decides among
safetensors) and weight_utils.py (files that are not needed for inference).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

FORMATS = (".safetensors", ".bin", ".pt", ".gguf")
"""Weights, the format that is taken first where there are several. GGUF is last: it is one of many quantisations."""

INDEXES: Mapping[str, str] = {
    ".safetensors": "model.safetensors.index.json",
    ".bin": "pytorch_model.bin.index.json",
}
"""The file that names the weight files of a format."""

NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})

BESIDE = frozenset({".json", ".txt", ".model", ".py", ".jinja", ".tiktoken", ".vocab", ".bpe", ".spm", ".yaml", ".yml"})
"""Suffixes of configuration, tokenizers, templates, processors and code."""

OTHER_FORMATS = frozenset({"original", "onnx", "openvino", "tf", "flax", "coreml", "gguf", "metal", "runs", "logs"})
"""Folders that hold the model once more, or what training left."""

CONFIGS = ("config.json", "params.json", "adapter_config.json")
"""One of these says what the model is: transformers, Mistral's own format, a LoRA adapter."""

SENTENCE_MODULES = "modules.json"
"""A model of sentence-transformers: its folders hold more weights, which vLLM loads, too."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a repository: path in it, bytes, and the hash that names its blob in a cache.

    The hash is the SHA-256 of a large file, and git's SHA-1 of any other; empty for a file of a folder.
    """

    path: str
    size: int
    digest: str = ""

    @property
    def folder(self) -> str:
        """Folder in the repository, empty at the top."""
        parent = str(PurePosixPath(self.path).parent)
        return "" if parent == "." else parent

    @property
    def name(self) -> str:
        """Name without folder."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """End of the name, from the last dot on."""
        return PurePosixPath(self.path).suffix


@dataclass(frozen=True, slots=True)
class Patterns:
    """What the user wants (fnmatch): all when `include` is empty, nothing that `exclude` names."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def allow(self, path: str) -> bool:
        """Whether a file is wanted."""
        wanted = not self.include or any(fnmatch(path, pattern) for pattern in self.include)
        return wanted and not any(fnmatch(path, pattern) for pattern in self.exclude)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to bring: weights, and what belongs to them."""

    weights: tuple[File, ...]
    others: tuple[File, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """All of it."""
        return (*self.others, *self.weights)

    @property
    def bytes(self) -> int:
        """Sum of sizes."""
        return sum(file.size for file in self.files)

    @property
    def weight_bytes(self) -> int:
        """Sum of sizes of the weights."""
        return sum(file.size for file in self.weights)


def select(files: Iterable[File], patterns: Patterns) -> Selection:
    """What vLLM needs among the files that the patterns leave."""
    wanted = [file for file in files if patterns.allow(file.path)]
    modules = any(file.path == SENTENCE_MODULES for file in wanted)
    folders = {file.folder for file in wanted if not file.folder or (modules and _is_module(file.folder))}
    weights = [file for folder in sorted(folders) for file in _weights(wanted, folder)]
    others = [file for file in wanted if _belongs(file, {one.suffix for one in weights})]
    return Selection(tuple(weights), tuple(others))


def narrowed(selection: Selection, names: Iterable[str]) -> Selection:
    """The selection without weights at the top that an index does not name."""
    named = frozenset(names)
    kept = [file for file in selection.weights if file.folder or file.name in named]
    return Selection(tuple(kept), selection.others)


def index_of(selection: Selection) -> File | None:
    """The index of the weights at the top, where there is one."""
    suffix = next((file.suffix for file in selection.weights if not file.folder), "")
    return next((file for file in selection.others if file.path == INDEXES.get(suffix)), None)


def names_in_index(content: Mapping[str, Any]) -> frozenset[str]:
    """The weight files that an index names. Raises ValueError when it is none."""
    named = content.get("weight_map")
    if not isinstance(named, Mapping) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ValueError("it has no weight_map that names files")
    return frozenset(named.values())


def describes_itself(selection: Selection) -> bool:
    """Whether vLLM learns from the files what the model is; GGUF says so in the weights."""
    gguf = any(file.suffix == ".gguf" for file in selection.weights)
    return gguf or any(file.path in CONFIGS for file in selection.others)


def _is_module(folder: str) -> bool:
    """Folders of sentence-transformers are numbered: 1_Pooling, 2_Dense."""
    number, _, name = folder.partition("_")
    return number.isdigit() and bool(name) and "/" not in name


def _weights(files: Sequence[File], folder: str) -> list[File]:
    """The weights in one folder, in the first format that it has; consolidated files when there is nothing else."""
    here = [file for file in files if file.folder == folder and file.name not in NOT_WEIGHTS]
    for suffix in FORMATS:
        found = [file for file in here if file.suffix == suffix]
        if found:
            return [file for file in found if not file.name.startswith("consolidated")] or found
    return []


def _belongs(file: File, formats: set[str]) -> bool:
    """Whether it is one of the files beside the weights; an index only with weights of its format."""
    parts = PurePosixPath(file.path).parts[:-1]
    if any(part in OTHER_FORMATS or part.startswith((".", "checkpoint-")) for part in parts):
        return False
    if file.name.endswith(".index.json"):
        return any(f"{suffix}." in file.name for suffix in formats)
    named = file.suffix in BESIDE and file.name not in NOT_WEIGHTS
    return not file.name.startswith(".") and (named or file.name.startswith("tokenizer"))
