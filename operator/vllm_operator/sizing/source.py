"""Where a model's facts come from on the command line: the catalogue, a folder, a `config.json`, or numbers by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_operator.errors import UsageError
from vllm_operator.sizing import catalogue
from vllm_operator.sizing.facts import ModelFacts, facts_from_config
from vllm_operator.sizing.types import ParameterCount

INDEX = "model.safetensors.index.json"
MODELOPT = "hf_quant_config.json"


def model_named(text: str) -> ModelFacts | ParameterCount:
    """The model that `text` names: a path, a config in JSON, a catalogue name, or a name or number like `70B`.

    A name may be spelled as a resource spells it, with `hf://`. Raises UsageError with the way out for anything else.
    """
    text = text.removeprefix("hf://")
    if text.lstrip().startswith("{"):
        return checked(facts_from_config(parse(text, "the model's JSON")))
    path = Path(text)
    if path.exists():
        return checked(facts_at(path))
    if text.endswith(".json") or text.startswith((".", "/")):
        raise UsageError(f"{text}: there is no such file or folder.")
    found = catalogue.lookup(text) or catalogue.parameters_from_name(text)
    if found is not None:
        return found
    close = catalogue.near(text)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    raise UsageError(
        f"{text} is not in the catalogue, no file, and its name states no number of parameters.{hint} "
        "Give the path of its config.json, or its size as in 70B."
    )


def checked(facts: ModelFacts) -> ModelFacts:
    """The same facts, or UsageError where the config names no size at all."""
    if facts.problem and not facts.hidden and facts.problem.startswith("hidden_size is missing"):
        raise UsageError(f"{facts.name}: {facts.problem}: this is no config.json of a language model.")
    return facts


def parse(text: str, where: str) -> Mapping[str, Any]:
    """A JSON object. Raises UsageError for what is none."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {error}.") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} is no JSON object.")
    return content


def facts_at(path: Path) -> ModelFacts:
    """Facts of the model in a folder, or of one `config.json`; files beside it that vLLM reads are read, too."""
    config_path = path / "config.json" if path.is_dir() else path
    folder = config_path.parent
    config = dict(parse(_text(config_path), str(config_path)))
    beside = folder / MODELOPT
    if not config.get("quantization_config") and beside.is_file():
        quantization = parse(_text(beside), str(beside))
        if is_modelopt(quantization):
            config["quantization_config"] = {**quantization, "quant_method": "modelopt"}
    return facts_from_config(config, name=folder.name or str(path), file_bytes=bytes_of_index(folder / INDEX))


def is_modelopt(quantization: Mapping[str, Any]) -> bool:
    """Whether vLLM takes the file for one of ModelOpt (transformers_utils/config.py): its producer says so."""
    producer = quantization.get("producer")
    return isinstance(producer, Mapping) and producer.get("name") == "modelopt"


def bytes_of_index(path: Path) -> int | None:
    """Total bytes of the files that a safetensors index names; None where there is none."""
    if not path.is_file():
        return None
    metadata = parse(_text(path), str(path)).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    return int(total) if isinstance(total, int | float) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
