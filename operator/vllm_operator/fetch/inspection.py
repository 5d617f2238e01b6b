"""A model, looked at: what sizing needs of its config.json, and the bytes of its weights. Nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_operator.fetch.choice import Read, choose
from vllm_operator.fetch.content import check_size, parse_object
from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.hub import Hub
from vllm_operator.fetch.model import look_up
from vllm_operator.fetch.reduction import reduced
from vllm_operator.fetch.selection import File, Patterns
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

    def read(file: File) -> bytes:
        return hub.read(file, listing.commit)

    config = _config(hub.repository, files, read)
    selection = choose(listing.files, patterns, read, hub.repository)
    return Inspected(listing.commit, config, selection.weight_bytes)


def inspect_folder(folder: Path, patterns: Patterns) -> Inspected:
    """What a folder holds. Raises FetchError."""
    if not folder.is_dir():
        raise FetchError(Reason.MODEL, f"{folder} is no folder: check the path in the claim.")
    files = {file.path: file for file in _files(folder)}

    def read(file: File) -> bytes:
        return _read(folder / file.path)

    config = _config(str(folder), files, read)
    selection = choose(files.values(), patterns, read, str(folder))
    return Inspected("", config, selection.weight_bytes)


def _config(name: str, files: Mapping[str, File], read: Read) -> Mapping[str, Any]:
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


def _object(name: str, file: File, read: Read) -> Mapping[str, Any]:
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> FetchError:
    message = f"{path} cannot be read ({error.strerror}): let user {os.getuid()} read the files of the claim."
    return FetchError(Reason.CONFIG_UNREADABLE, message)
