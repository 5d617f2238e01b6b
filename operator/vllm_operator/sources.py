"""Where settings come from beside flags: a file, and an environment that is not the operator's alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import yaml

from vllm_operator.errors import UsageError

Scalar = str | int | float | bool

# What the kubelet puts into every pod for each Service of its namespace, unless `enableServiceLinks` is false; for one
# that is called vllm-operator or vllm-operator-metrics these names begin like ours.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_LINK_NAME = re.compile(r".*_SERVICE_(HOST|PORT(_\w+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_NEAR = 0.8  # how alike two names are before one is taken for the other, from 0 to 1


def is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes made a variable for a Service.

    VLLM_OPERATOR_HEALTH_PORT is a setting, and what a Service called vllm-operator-health makes: its value tells.
    """
    return bool(_LINK_NAME.fullmatch(variable) or (variable.endswith("_PORT") and _LINK_VALUE.fullmatch(value)))


def strangers(environment: Mapping[str, str], prefix: str, known: Collection[str]) -> Iterator[str]:
    """One sentence for each variable that begins like ours and means nothing; `known` are the names of settings.

    They stop nothing: Kubernetes makes such variables, and those for a newer release must not keep an older one that
    was rolled back to from starting.
    """
    for variable, value in sorted(environment.items()):
        name = variable.removeprefix(prefix)
        if variable != name and name.lower() not in known and not is_service_link(variable, value):
            yield f"{variable} is no setting{_instead(name, known, prefix)}"


def read_file(path: str, known: Collection[str], lists: Collection[str] = ()) -> dict[str, Scalar]:
    """Settings of a YAML file by name, without those that are null; UsageError for what is no setting.

    Those in `lists` may be lists there; they come back with commas between the items, as flags have them.
    """
    found: dict[str, Scalar] = {}
    for name, value in _mapping(path).items():
        if name not in known:
            raise UsageError(f"{path}: {name!r} is no setting{_instead(str(name), known) or '.'}")
        if isinstance(value, Scalar):
            found[name] = value
        elif name in lists and isinstance(value, list) and all(isinstance(one, Scalar) for one in value):
            found[name] = ",".join(map(str, value))
        elif value is not None:
            raise UsageError(f"{path}: {name} must be a single value, not a {type(value).__name__}.")
    return found


def _mapping(path: str) -> dict[str, object]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        document, content = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"The configuration {path} is no YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(document, yaml.MappingNode):
        raise UsageError(f"The configuration {path} must be a mapping of settings to values, such as `workers: 4`.")
    (name, count), *_ = Counter(str(key.value) for key, _ in document.value).most_common(1) or [("", 0)]
    if count > 1:
        raise UsageError(f"{path}: {name} is there {count} times.")
    return content


def _instead(name: str, known: Collection[str], prefix: str = "") -> str:
    """The nearest name that is known, if one is near; as a variable where there is a prefix."""
    spoken = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
    near = get_close_matches(spoken, known, n=1, cutoff=_NEAR)
    if not near:
        return ""
    return f"; did you mean {prefix + near[0].upper() if prefix else near[0]}?"
