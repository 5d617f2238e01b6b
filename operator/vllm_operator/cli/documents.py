"""Resources from files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vllm_operator.api.parse import Resource, parse_manifest
from vllm_operator.errors import InvalidSpec, UsageError

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document and where it stands."""

    where: str
    content: dict[str, Any]


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error


def _expanded(names: Sequence[str]) -> Iterator[str]:
    """A folder stands for the YAML files in it."""
    for name in names:
        if name != "-" and Path(name).is_dir():
            found = sorted(str(path) for path in Path(name).rglob("*.y*ml"))
            if not found:
                raise UsageError(f"{name} holds no YAML file")
            yield from found
        else:
            yield name


def read_documents(names: Sequence[str]) -> Iterator[Document]:
    """Every document of the named files and folders (`-` is standard input); UsageError when one is not YAML."""
    for name in _expanded(names):
        try:
            documents = list(yaml.safe_load_all(_text(name)))
        except yaml.YAMLError as error:
            raise UsageError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
        for index, content in enumerate(documents):
            where = name if len(documents) == 1 else f"{name} (document {index + 1})"
            if content is None:
                continue
            if not isinstance(content, dict):
                raise UsageError(f"{where} is not a Kubernetes object")
            yield Document(where, content)


def read_resources(names: Sequence[str], namespace: str | None) -> Iterator[tuple[Document, Resource]]:
    """Every VLLMDeployment of the named files; UsageError, naming the file, when one is none or is not valid."""
    for document in read_documents(names):
        try:
            yield document, parse_manifest(document.content, namespace or DEFAULT_NAMESPACE)
        except InvalidSpec as error:
            raise UsageError(f"{document.where}: {error}") from error
