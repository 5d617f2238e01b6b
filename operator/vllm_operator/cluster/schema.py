"""Check a manifest against the models that ship with the Kubernetes client, without a cluster."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel, ValidationError

# Fields that hold quantities. The API takes numbers for them, the client's models only strings.
_QUANTITY_MAPS = frozenset({"limits", "requests"})
_QUANTITIES = frozenset({"sizeLimit", "averageValue", "divisor"})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _normal(key: str, value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
    if key in _QUANTITIES and _is_number(value):
        return str(value)
    if key in _QUANTITY_MAPS and isinstance(value, dict):
        return {name: str(amount) if _is_number(amount) else amount for name, amount in value.items()}
    if isinstance(value, dict):
        return {name: _normal(name, child) for name, child in value.items()}
    if isinstance(value, list):
        return [_normal("", child) for child in value]
    return value


def _model(api_version: str, kind: str) -> type[BaseModel] | None:
    group, _, version = api_version.rpartition("/")
    if "." in group and not group.endswith(".k8s.io"):
        return None
    models = importlib.import_module("kubernetes.client.models")
    found = getattr(models, f"{version.capitalize()}{kind}", None)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def schema_errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest, as `path: sentence`; empty when it is valid or of a kind that Kubernetes lacks."""
    model = _model(str(manifest.get("apiVersion", "")), str(manifest.get("kind", "")))
    if model is None:
        return []
    try:
        model.model_validate(_normal("", manifest))
    except ValidationError as error:
        return [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
    return []
