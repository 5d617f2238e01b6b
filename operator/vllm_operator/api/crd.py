"""The CustomResourceDefinition, generated from the models.

pydantic speaks JSON Schema 2020-12; an API server wants a structural OpenAPI v3 schema
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
One recursive rewrite turns the first into the second and refuses what has no counterpart.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml

from vllm_operator.api import GROUP, KIND, PLURAL, VERSION
from vllm_operator.api.spec import Spec
from vllm_operator.api.status import ConditionType, Status

_DROPPED = frozenset({"title", "examples", "discriminator", "$defs"})
# Keys of JSONSchemaProps (apiextensions.k8s.io/v1) that the models may lead to.
_KNOWN = frozenset({
    "type", "format", "description", "default", "enum", "properties", "required", "items", "additionalProperties",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
    "maxProperties", "x-kubernetes-validations", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
})  # fmt: skip

COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0, "Whether the service serves"),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 0, "Why, or why not"),
    ("Replicas", "integer", ".status.replicas", 0, "Pods that exist"),
    ("GPU", "string", ".status.sizing.gpu", 0, "GPU product"),
    ("GPUs", "integer", ".status.sizing.gpusPerReplica", 0, "GPUs per replica"),
    ("Model", "string", ".spec.model.source", 1, "Where the model comes from"),
    ("Verdict", "string", ".status.sizing.verdict", 1, "How sure the size is"),
    ("URL", "string", ".status.endpoint", 1, "Base URL of the OpenAI API"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since it was created"),
)


# True before the operator has looked. Whoever waits by kstatus takes a resource without conditions for finished.
_UNSEEN = {
    "conditions": [
        {
            "type": ConditionType.READY.value,
            "status": "Unknown",
            "reason": "Pending",
            "message": "the operator has not looked at it yet",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
            "observedGeneration": 0,
        }
    ]
}


def _resolve(node: dict[str, Any], definitions: dict[str, Any], trail: tuple[str, ...]) -> dict[str, Any]:
    name = node["$ref"].rsplit("/", 1)[-1]
    if name in trail:
        raise ValueError(f"{name} refers to itself: a structural schema cannot say that")
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return _structural({**definitions[name], **beside}, definitions, (*trail, name))


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """`X | None` is X that may be left out: Kubernetes drops nulls."""
    kept = [option for option in node["anyOf"] if option != {"type": "null"}]
    if len(kept) != 1:
        raise ValueError(f"a union has no structural schema: {node['anyOf']}")
    beside = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
    if node.get("default") is not None:
        beside["default"] = node["default"]
    return {**kept[0], **beside}


def _bounds(node: dict[str, Any]) -> None:
    """OpenAPI 3.0 spells an exclusive bound as a bound and a boolean."""
    for side in ("Minimum", "Maximum"):
        limit = node.pop(f"exclusive{side}", None)
        if limit is not None:
            node[side.lower()] = limit
            node[f"exclusive{side}"] = True


def _children(node: dict[str, Any], definitions: dict[str, Any], trail: tuple[str, ...]) -> None:
    if "properties" in node:
        node["properties"] = {
            name: _structural(child, definitions, trail) for name, child in node["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _structural(node[key], definitions, trail)
    if isinstance(node.get("additionalProperties"), bool):
        del node["additionalProperties"]  # the server prunes what the schema does not name


def _structural(node: dict[str, Any], definitions: dict[str, Any], trail: tuple[str, ...] = ()) -> dict[str, Any]:
    if "anyOf" in node:
        node = _without_null(node)
    if "$ref" in node:
        return _resolve(node, definitions, trail)
    node = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if unknown := node.keys() - _KNOWN:
        raise ValueError(f"{sorted(unknown)} cannot be said in a structural schema")
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    _bounds(node)
    _children(node, definitions, trail)
    return node


def _fill_defaults(node: dict[str, Any]) -> None:
    """Give an object whose fields have defaults one of its own: the API server looks inside only when it is there.

    It is said in full: the rules of a default are evaluated before the defaults inside it are filled in.
    """
    for child in node.get("properties", {}).values():
        _fill_defaults(child)
        if isinstance(child.get("default"), dict) and "properties" in child:
            fields = child["properties"].items()
            child["default"] = {name: copy.deepcopy(field["default"]) for name, field in fields if "default" in field}
    if isinstance(node.get("items"), dict):
        _fill_defaults(node["items"])


def _drop_defaults(node: dict[str, Any]) -> None:
    """Leave what is absent absent: the API server would fill in what the operator did not say."""
    for child in (*node.get("properties", {}).values(), node.get("items")):
        if isinstance(child, dict):
            child.pop("default", None)
            _drop_defaults(child)


def schema_of(model: type[Spec | Status]) -> dict[str, Any]:
    """The structural schema of a model; ValueError when it holds something that Kubernetes cannot express."""
    raw = copy.deepcopy(model.model_json_schema(by_alias=True))
    schema = _structural(raw, raw.get("$defs", {}))
    if model is Status:
        _drop_defaults(schema)
    else:
        _fill_defaults(schema)
    return schema


def _column(name: str, kind: str, path: str, priority: int, text: str) -> dict[str, Any]:
    """A printer column. The API server drops a priority of 0; said all the same, every `kubectl apply` is a change."""
    beside = {"priority": priority} if priority else {}
    return {"name": name, "type": kind, "jsonPath": path, **beside, "description": text}


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as plain data."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "One vLLM service: model, GPUs, cache, Service and scaling.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": schema_of(Spec),
                    "status": {**schema_of(Status), "default": copy.deepcopy(_UNSEEN)},
                },
            }
        },
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
    }
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["vd", "vllm"],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as a YAML document."""
    head = "# Generated from operator/vllm_operator/api by `make crd`; do not edit.\n"
    return head + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)
