"""Whether the image's vLLM understands what a spec asks of it: extra arguments, and names that are only names to us."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vllm_operator.api.spec import Spec
from vllm_operator.engine.flags import judge
from vllm_operator.engine.values import near
from vllm_operator.engine.version import stated_version
from vllm_operator.engine.vocabulary import NEWEST, VERSIONS, Vocabulary, vocabulary
from vllm_operator.errors import Problem

EXTRA_ARGS = "spec.engine.extraArgs"


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found; `doubts` are problems about a vLLM that is not known, `plugins` are flags that load code."""

    problems: tuple[Problem, ...] = ()
    doubts: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


def check_engine(spec: Spec, image: str) -> Findings:
    """What is wrong with the engine's arguments and names for the vLLM in `image`. An own server's are its own."""
    if spec.engine.command:
        return Findings()
    version = stated_version(image)
    known = vocabulary(version or "")
    judged = judge(spec.engine.extra_args, known or _stand_in(version))
    refused = (*(Problem(EXTRA_ARGS, sentence) for sentence in judged.refused), *_two_connectors(spec))
    unknown = [*(Problem(EXTRA_ARGS, sentence) for sentence in judged.unknown)]
    unknown += _names(spec, known or _stand_in(version), judged.plugins)
    if known:
        return Findings((*refused, *unknown), (), judged.plugins)
    which = f"vLLM {version}" if version else "the image's vLLM"
    known_versions = f"only {', '.join(VERSIONS)} are"
    doubts = [f"{problem}; whether {which} agrees is not known, {known_versions}" for problem in unknown]
    if version and _numbers(version) < _numbers(VERSIONS[0]):
        doubts.append(f"{which} is older than {VERSIONS[0]}: it may not know what the operator itself passes to it")
    return Findings(refused, tuple(doubts), judged.plugins)


def _stand_in(version: str | None) -> Vocabulary:
    """What comes nearest to a version that is not known: the oldest for older ones, otherwise the newest."""
    oldest, wanted = _numbers(VERSIONS[0]), _numbers(version) if version else _numbers(NEWEST)
    found = vocabulary(VERSIONS[0] if wanted < oldest else NEWEST)
    if found is None:
        raise LookupError(f"no data for vLLM {NEWEST}")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _two_connectors(spec: Spec) -> Iterator[Problem]:
    """Offloading takes the place of a connector (VllmConfig._post_init_kv_transfer_config in vllm/config/vllm.py)."""
    words = (word.replace("_", "-") for word in spec.engine.extra_args)
    if spec.engine.kv_offload and any(word.startswith("--kv-transfer-config") for word in words):
        yield Problem(EXTRA_ARGS, "--kv-transfer-config would be overruled by spec.engine.kvOffload: keep one of them")


def _names(spec: Spec, known: Vocabulary, plugins: tuple[str, ...]) -> Iterator[Problem]:
    """Names that vLLM looks up only once it has started to load; a plugin may register more of them."""
    engine = spec.engine
    tool = engine.tool_calling.parser if engine.tool_calling else None
    reasoning = engine.reasoning.parser if engine.reasoning else None
    asked = (
        ("spec.engine.toolCalling.parser", tool, known.tool_parsers, "--tool-parser-plugin"),
        ("spec.engine.reasoning.parser", reasoning, known.reasoning_parsers, "--reasoning-parser-plugin"),
        ("spec.model.quantization", spec.model.quantization, known.quantizations, ""),
    )
    for field, name, names, plugin in asked:
        if name is not None and name not in names and plugin not in plugins:
            what = "quantization" if not plugin else "parser"
            yield Problem(field, f"vLLM {known.version} has no {what} {name!r}{near(name, names) or _all(names)}")


def _all(names: tuple[str, ...]) -> str:
    return f": it has {', '.join(names)}"
