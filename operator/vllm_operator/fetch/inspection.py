"""A model, looked at: what sizing needs of its config.json, and the bytes of its weights. Nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_operator.fetch.content import check_size, parse_object
from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.hub import Hub
from vllm_operator.fetch.model import by_index, choose, look_up
from vllm_operator.fetch.reduction import reduced
from vllm_operator.fetch.selection import File, Patterns, Selection, index_of, select
from vllm_operator.report import Inspected, Reason
from vllm_operator.sizing.source import MODELOPT, is_modelopt

CONFIG = "config.json"
BY_HAND = "give the numbers in spec.model.facts"
MOST_FILES = 20_000
"""Files of a folder that are looked at; a model has fewer than a thousand."""


def inspect(hub: Hub, patterns: Patterns) -> Inspected:
    """What a repository holds. Raises FetchError."""
    listing = look_up(hub)
    files = {file.path: file for file in listing.files}
    config = _config(hub.repository, files, lambda file: hub.read(file, listing.commit))
    selection = choose(hub, listing, patterns)
    return Inspected(listing.commit, config, selection.weight_bytes)


def inspect_folder(folder: Path, patterns: Patterns) -> Inspected:
    """What a folder holds. Raises FetchError."""
    if not folder.is_dir():
        raise FetchError(Reason.MODEL, f"{folder} is no folder: check the path in the claim.")
    files = {file.path: file for file in _files(folder)}
    config = _config(str(folder), files, lambda file: _read(folder, file))
    selection = select(files.values(), patterns)
    index = index_of(selection)
    if index:
        selection = by_index(selection, _read(folder, index), str(folder), index.path)
    return Inspected("", config, _some_weights(selection, folder).weight_bytes)


def _some_weights(selection: Selection, folder: Path) -> Selection:
    if not selection.weights:
        message = f"{folder} has no weights that vLLM loads (.safetensors, .bin, .pt, .gguf): check the path."
        raise FetchError(Reason.WEIGHTS, message)
    return selection


def _config(name: str, files: Mapping[str, File], read: Callable[[File], bytes]) -> Mapping[str, Any]:
    """The reduced config, with the quantisation that ModelOpt writes beside it, as vLLM reads it."""
    if CONFIG not in files:
        raise FetchError(Reason.CONFIG_MISSING, f"{name} has no {CONFIG}: {BY_HAND}.")
    config = dict(_object(name, files[CONFIG], read))
    beside = files.get(MODELOPT)
    if beside and not config.get("quantization_config"):
        quantization = _object(name, beside, read)
        if is_modelopt(quantization):
            config["quantization_config"] = {**quantization, "quant_method": "modelopt"}
    return reduced(config)


def _object(name: str, file: File, read: Callable[[File], bytes]) -> Mapping[str, Any]:
    try:
        check_size(file.size)
        return parse_object(read(file))
    except ValueError as error:
        message = f"{file.path} of {name} cannot be read: {error}; repair it, or {BY_HAND}."
        raise FetchError(Reason.CONFIG_UNREADABLE, message) from error


def _files(folder: Path) -> list[File]:
    """Files of a folder, and of folders one level down: none that vLLM needs lies deeper."""
    found: list[File] = []
    try:
        for pattern in ("*", "*/*"):
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and len(found) < MOST_FILES:
                    found.append(File(path.relative_to(folder).as_posix(), path.stat().st_size))
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found


def _read(folder: Path, file: File) -> bytes:
    try:
        return (folder / file.path).read_bytes()
    except OSError as error:
        raise _unreadable(folder / file.path, error) from error


def _unreadable(path: Path, error: OSError) -> FetchError:
    message = f"{path} cannot be read ({error.strerror}): let user {os.getuid()} read the files of the claim."
    return FetchError(Reason.CONFIG_UNREADABLE, message)
