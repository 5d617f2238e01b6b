"""The operator's configuration: one frozen, checked value from flags, environment, a file and defaults."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from vllm_operator.errors import UsageError
from vllm_operator.plan.types import Defaults
from vllm_operator.sizing.tables import EMPTY, read_tables
from vllm_operator.sources import Scalar, is_service_link, read_file, strangers

PREFIX = "VLLM_OPERATOR_"
FILE = "config"  # the setting that names the file of all others
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[^\s:@/]+(\S*[^\s:@/])?")


@dataclass(frozen=True, slots=True)
class _Setting:
    """How a setting is read and what may be said: `parse` raises ValueError, `rule` is the sentence that follows."""

    help: str
    parse: Callable[[str], object]
    rule: str
    allows: Callable[[Any], bool]
    many: bool = False  # several values, separated by commas


def _setting(default: object, help_text: str, rule: str, allows: Callable[[Any], bool]) -> Any:  # noqa: ANN401
    parse = type(default) if default is not None else str
    return field(default=default, metadata={"setting": _Setting(help_text, parse, rule, allows)})


def _one_of(default: str, help_text: str, choices: tuple[str, ...]) -> Any:  # noqa: ANN401
    return _setting(default, help_text, f"must be one of {', '.join(choices)}", lambda value: value in choices)


def _image(default: str, help_text: str) -> Any:  # noqa: ANN401
    rule = "must be an image reference such as registry.example.com/vllm:v1"
    return _setting(default, help_text, rule, lambda value: bool(_IMAGE.fullmatch(value)))


def _dns_label(default: str | None, help_text: str, what: str) -> Any:  # noqa: ANN401
    rule = f"must be the name of a {what}"
    return _setting(default, help_text, rule, lambda value: bool(_DNS_LABEL.fullmatch(value)))


def _parse_names(raw: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip() for one in raw.split(",")))


def _names(help_text: str, rule: str) -> Any:  # noqa: ANN401
    setting = _Setting(help_text, _parse_names, rule, lambda names: all(map(_DNS_LABEL.fullmatch, names)), many=True)
    return field(default=(), metadata={"setting": setting})


def _name(help_text: str) -> Any:  # noqa: ANN401
    return _setting(None, help_text, "must not be empty", bool)


def _number(default: float, help_text: str, least: float, most: float) -> Any:  # noqa: ANN401
    rule = f"must be a number from {least:g} to {most:g}"
    if isinstance(default, int):
        rule = rule.replace("number", "whole number")
    return _setting(default, help_text, rule, lambda value: least <= value <= most)


_WORDS = {"true": True, "false": False}


def _parse_switch(raw: str) -> bool:
    try:
        return _WORDS[raw.lower()]
    except KeyError as error:
        raise ValueError(raw) from error


def _switch(help_text: str, *, default: bool) -> Any:  # noqa: ANN401
    setting = _Setting(help_text, _parse_switch, "must be true or false", lambda _: True)
    return field(default=default, metadata={"setting": setting})


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """What an administrator can set. Build it with `load`, which checks it."""

    engine_image: str = _image(Defaults().engine_image, "vLLM image for GPU nodes where a resource names none")
    cpu_image: str = _image(Defaults().cpu_image, "vLLM image for CPU nodes where a resource names none")
    fetch_image: str = _image(Defaults().fetch_image, "image of the Jobs that fetch models: the operator's own")
    namespace: tuple[str, ...] = _names(
        "namespaces to serve, separated by commas (default: all)", "must be names of namespaces, separated by commas"
    )
    workers: int = _number(16, "resources that are worked on at once", 1, 256)
    resync_seconds: float = _number(600.0, "seconds between two looks at everything, +-20 %%", 10, 86400)
    log_level: str = _one_of("info", "least severe level that is logged", LOG_LEVELS)
    log_format: str = _one_of("json", "one JSON object per line, or text for people", LOG_FORMATS)
    health_port: int = _number(8080, "port of /healthz, /readyz and /metrics; 0 turns them off", 0, 65535)
    kubeconfig: str | None = _name("kubeconfig file (default: $KUBECONFIG, the pod's service account, ~/.kube/config)")
    context: str | None = _name("context within the kubeconfig (default: its current one)")
    tables: str | None = _name("YAML file with further GPUs and models, such as a mounted ConfigMap")
    writes_per_second: float = _number(200.0, "writes to the API server per second, in the long run", 0.1, 10000)
    burst: int = _number(400, "writes that may follow each other at once", 1, 100000)
    renew_pods: bool = _switch(
        "whether running servers follow another release of the operator at once (true), or keep their pod template "
        "until their spec changes (false)",
        default=False,
    )
    leader_elect: bool = _switch("whether to wait for a Lease, so that of several operators one acts", default=False)
    lease_name: str = _dns_label("vllm-operator", "name of that Lease", "Lease")
    lease_namespace: str | None = _dns_label(None, "namespace of that Lease (default: the pod's own)", "namespace")
    lease_duration_seconds: int = _number(15, "seconds for which the Lease is held without being renewed", 1, 3600)
    lease_renew_seconds: float = _number(10.0, "seconds after which who could not renew the Lease is silent", 0.5, 3600)
    lease_retry_seconds: float = _number(2.0, "seconds between two attempts to renew or to get the Lease", 0.1, 3600)

    config: str | None = _name("YAML file with settings, such as a mounted ConfigMap")

    def defaults(self) -> Defaults:
        """What plans need of it; reads the tables' file, and raises UsageError when that fails."""
        return Defaults(
            engine_image=self.engine_image,
            cpu_image=self.cpu_image,
            fetch_image=self.fetch_image,
            tables=read_tables(self.tables) if self.tables else EMPTY,
            renew_pods=self.renew_pods,
        )


def _settings() -> dict[str, _Setting]:
    return {one.name: one.metadata["setting"] for one in fields(OperatorConfig)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Rule:
    """What the documentation says of a setting."""

    name: str
    flag: str
    rule: str
    help: str


def rules() -> list[Rule]:
    """Every setting, in the order of the flags."""
    return [Rule(name, _flag(name), one.rule, one.help.replace("%%", "%")) for name, one in _settings().items()]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Offer every setting as a flag."""
    defaults = OperatorConfig()
    for name, setting in _settings().items():
        default = getattr(defaults, name)
        shown = f" (default: {default})" if default not in (None, ()) else ""
        parser.add_argument(_flag(name), metavar="VALUE", help=setting.help + shown)


def _read(source: str, raw: Scalar, setting: _Setting) -> object:
    try:
        value = setting.parse(str(raw))
    except ValueError:
        value = None
    if value is None or not setting.allows(value):
        raise UsageError(f"{source}={raw!r}: {setting.rule}.")
    return value


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration in force, and for each setting where its value is from: default, file, environment or flag."""

    config: OperatorConfig
    sources: Mapping[str, str]

    def settings(self) -> dict[str, dict[str, object]]:
        """Value and source of every setting. None of them is a secret."""
        return {name: {"value": getattr(self.config, name), "source": source} for name, source in self.sources.items()}


def effective(environment: Mapping[str, str], flags: Mapping[str, str | None]) -> Effective:
    """The configuration in force: flags before environment (VLLM_OPERATOR_WORKERS=4) before file before defaults.

    An empty variable counts as unset, and so does one that Kubernetes made for a Service. Raises UsageError, one
    sentence, for the first value that is no good.
    """
    known = _settings()
    variables = {name: environment.get(PREFIX + name.upper(), "") for name in known}
    path = flags.get(FILE) or variables[FILE]
    lists = {name for name, setting in known.items() if setting.many}
    written = read_file(path, known.keys() - {FILE}, lists) if path else {}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    for name, setting in known.items():
        variable, said = PREFIX + name.upper(), variables[name]
        if (flag := flags.get(name)) is not None:
            values[name], sources[name] = _read(_flag(name), flag, setting), "flag"
        elif said and not is_service_link(variable, said):
            values[name], sources[name] = _read(variable, said, setting), "environment"
        elif name in written:
            values[name], sources[name] = _read(f"{path}: {name}", written[name], setting), "file"
    config = OperatorConfig(**values)
    _check_lease(config)
    return Effective(config, sources)


def _check_lease(config: OperatorConfig) -> None:
    """Who cannot renew has to end before another may begin, and has to try more than once."""
    falling = ("lease_duration_seconds", "lease_renew_seconds", "lease_retry_seconds")
    for longer, shorter in pairwise(falling):
        if getattr(config, longer) <= getattr(config, shorter):
            said = f"{shorter}={getattr(config, shorter):g}"
            raise UsageError(f"{said}: must be less than {longer}, which is {getattr(config, longer):g}.")


def load(environment: Mapping[str, str], flags: Mapping[str, str | None]) -> OperatorConfig:
    """As `effective`, the configuration alone."""
    return effective(environment, flags).config


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that begins like a setting and is none."""
    return list(strangers(environment, PREFIX, _settings()))
