"""Rows that a platform team adds: GPUs that the shipped table does not know, weights of their own, models of their own.

One YAML document with `gpus:` and `models:`, each a mapping as in data/gpus.yaml and data/models.yaml. Rows
that are wrong are refused one by one with line and field; the others count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_operator.errors import UsageError
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.gpus import GPU, gpu_from_row, gpus, parse_yaml

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that is refused: where, which field (none: the whole document), and what was expected."""

    line: int
    field: str
    sentence: str

    def __str__(self) -> str:
        """`line 12: gpus.MyGPU.memoryGiB: ...`."""
        return ": ".join(filter(None, (f"line {self.line}", self.field, self.sentence)))


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows that are right, and the rest."""

    gpus: Mapping[str, GPU]
    models: Mapping[str, ModelFacts]
    bad: tuple[BadRow, ...] = ()

    def gpu(self, label: str) -> GPU | None:
        """The added GPU of that label, short name or alias, whatever its case."""
        wanted = label.casefold()
        names = ((gpu, (gpu.product, gpu.name, *gpu.aliases)) for gpu in self.gpus.values())
        return next((gpu for gpu, known in names if wanted in {name.casefold() for name in known}), None)


EMPTY = Tables({}, {})

SECTIONS = ("gpus", "models")


def read_tables(path: str) -> Tables:
    """Rows of a file. Raises UsageError when it cannot be read as one; wrong rows are listed in `bad`."""
    try:
        found = load_tables(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--tables={path!r} cannot be read: {error}.") from error
    for row in found.bad:
        if not row.field:  # of the whole file
            raise UsageError(f"--tables={path!r} cannot be read: {row}.")
    return found


def load_tables(text: str) -> Tables:
    """Rows of a document. Never raises: a document that is no YAML is one bad row."""
    try:
        content = parse_yaml(text)
    except Exception as error:  # noqa: BLE001 - libyaml and its Python twin raise different classes
        mark = getattr(error, "problem_mark", None)
        return Tables({}, {}, (BadRow(mark.line + 1 if mark else 1, "", f"this is no YAML: {_first_line(error)}"),))
    if content is None:
        return EMPTY
    if not isinstance(content, Mapping):
        return Tables({}, {}, (BadRow(1, "", "a mapping with gpus and models was expected"),))
    bad = [
        BadRow(line_of(text, str(key)), str(key), "gpus and models are known") for key in content if key not in SECTIONS
    ]
    added_gpus = dict(_rows(text, content, "gpus", _gpu, bad))
    added_models = dict(_rows(text, content, "models", _model, bad))
    return Tables(added_gpus, added_models, tuple(bad))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _RowError(ValueError):
    """A row that is refused: field and sentence."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.name = name


def _rows(
    text: str, content: Row, section: str, build: Callable[[str, Row], Any], bad: list[BadRow]
) -> Iterator[tuple[str, Any]]:
    rows = content.get(section) or {}
    if not isinstance(rows, Mapping):
        bad.append(BadRow(line_of(text, section), section, "a mapping of rows was expected"))
        return
    for key, row in rows.items():
        name = str(key)
        if not isinstance(row, Mapping):
            bad.append(BadRow(line_of(text, section, name), f"{section}.{name}", "a mapping was expected"))
            continue
        try:
            yield name, build(name, row)
        except _RowError as error:
            where = line_of(text, section, name, error.name)
            bad.append(BadRow(where, f"{section}.{name}.{error.name}".rstrip("."), str(error)))


def line_of(text: str, *path: str) -> int:
    """The line, from 1, of the last key of the path that is found in order; good enough to point at."""
    lines, at = text.splitlines(), 0
    for key in path:
        for index in range(at, len(lines)):
            stripped = lines[index].strip().removeprefix("{").strip("\"'")
            if key and (stripped.startswith((f"{key}:", f'{key}":', f"{key}':")) or f" {key}:" in lines[index]):
                at = index
                break
    return at + 1


GPU_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "aliases": list,
    "vendor": str,
    "resourceName": str,
    "memoryGiB": (int, float),
    "labelMiB": (int, float),
    "marketingGB": (int, float),
    "computeCapability": str,
    "bf16": bool,
    "fp8": bool,
    "fp4": bool,
    "interconnect": str,
    "gpusPerNode": list,
    "weight": (int, float),
    "source": str,
}
LARGEST_GIB = 4096


def _gpu(product: str, row: Row) -> GPU:
    """A new GPU, or fields over the shipped row of the same label (a weight alone is enough there)."""
    for name, value in row.items():
        expected = GPU_FIELDS.get(str(name))
        if expected is None:
            raise _RowError(str(name), f"is not a field of a GPU; {', '.join(GPU_FIELDS)} are")
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise _RowError(str(name), f"{value!r} is of the wrong type")
    shipped = gpus().get(product)
    merged = {**(_as_row(shipped) if shipped else {"name": product}), **row}
    memory, weight = merged.get("memoryGiB"), merged.get("weight", 1.0)
    if memory is None:
        raise _RowError("memoryGiB", "is missing: total memory as torch reports it, GiB")
    if not 0 < memory <= LARGEST_GIB:
        raise _RowError("memoryGiB", f"{memory} is out of range: above 0 and at most {LARGEST_GIB} was expected")
    if weight <= 0:
        raise _RowError("weight", f"{weight} is out of range: above 0 was expected")
    if any(
        isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in merged.get("gpusPerNode", [])
    ):
        raise _RowError("gpusPerNode", "whole numbers of at least 1 were expected")
    return gpu_from_row(product, merged)


def _as_row(gpu: GPU) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "aliases": list(gpu.aliases),
        "vendor": gpu.vendor,
        "resourceName": gpu.resource_name,
        "memoryGiB": gpu.memory_gib,
        "computeCapability": gpu.compute_capability,
        "bf16": gpu.bf16,
        "fp8": gpu.fp8,
        "fp4": gpu.fp4,
        "interconnect": gpu.interconnect,
        "gpusPerNode": list(gpu.gpus_per_node),
        "weight": gpu.weight,
    }


def _model(name: str, row: Row) -> ModelFacts:
    unknown = next((str(key) for key in row if key not in {"config", "files", "source", "gated"}), None)
    if unknown is not None:
        raise _RowError(unknown, "is not a field of a model; config, files, source and gated are")
    config = row.get("config")
    if not isinstance(config, Mapping):
        raise _RowError("config", "the keys of the model's config.json were expected")
    files = row.get("files")
    size = files.get("safetensorsBytes") if isinstance(files, Mapping) else None
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise _RowError("files", f"safetensorsBytes is {size!r}: a whole number of bytes was expected")
    facts = facts_from_config(config, name=name, file_bytes=size)
    if facts.problem:
        raise _RowError("config", facts.problem)
    return facts
