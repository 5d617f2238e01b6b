"""What the image's vLLM does not understand is refused, or doubted where its version is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planning import plan_of, spec_of
from strategies import valid_specs
from vllm_operator.api.parse import parse_spec
from vllm_operator.engine.arguments import arguments
from vllm_operator.engine.contract import Findings, check_engine
from vllm_operator.engine.flags import parse_problems
from vllm_operator.engine.profiles import settings as settings_of
from vllm_operator.engine.version import stated_version
from vllm_operator.engine.vocabulary import NEWEST, VERSIONS, Vocabulary, vocabulary
from vllm_operator.plan.size import unsized
from vllm_operator.plan.types import Defaults

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.yaml"))
OWN_TAG = "registry.example/vllm:prod-7"


def known(version: str) -> Vocabulary:
    found = vocabulary(version)
    assert found is not None
    return found


def found(tag: str = "vllm/vllm-openai:v0.32.0", model: dict[str, Any] | None = None, **engine: Any) -> Findings:  # noqa: ANN401
    fields = {"model": {"source": "hf://Qwen/Qwen3-8B", "maxLength": 16384} | (model or {}), "engine": engine}
    return check_engine(parse_spec(spec_of(**fields)), tag)


def served(golden: Path) -> list[str]:
    """The arguments of the server in a reviewed file; none for an own server or a refused resource."""
    for manifest in yaml.load_all(golden.read_text(), yaml.CSafeLoader):
        if manifest["kind"] == "Deployment":
            server = manifest["spec"]["template"]["spec"]["containers"][0]
            return list(server["args"]) if server["command"] == ["vllm", "serve"] else []
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_reviewed_command_line_parses(version: str) -> None:
    lines = {golden.stem: served(golden) for golden in GOLDEN}
    assert sum(map(bool, lines.values())) > 35
    problems = {name: parse_problems(line[1:], known(version)) for name, line in lines.items() if line}
    assert {name: found for name, found in problems.items() if found} == {}


@given(valid_specs(), st.sampled_from(VERSIONS))
def test_whatever_the_operator_says_itself_parses(spec: dict[str, Any], version: str) -> None:
    own = {key: value for key, value in spec.get("engine", {}).items() if key not in ("extraArgs", "command")}
    parsed = parse_spec({**spec, "engine": own})
    line = arguments(parsed, unsized(parsed, Defaults().tables), settings_of(parsed))
    assert not line[0].startswith("-")
    assert parse_problems(line[1:], known(version)) == ()


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.32.0", "0.32"),
        ("reg.example:5000/vllm:0.31.1-cu130", "0.31"),
        ("vllm/vllm-openai:v0.33.0@sha256:" + "0" * 64, "0.33"),
        (OWN_TAG, None),
        ("nvcr.io/nvidia/vllm:25.09-py3", None),
        ("registry.example:5000/vllm@sha256:" + "0" * 64, None),
    ],
)
def test_the_version_is_what_the_tag_states(image: str, version: str | None) -> None:
    assert stated_version(image) == version


def test_an_unknown_flag_is_refused_where_the_version_is_known() -> None:
    (problem,) = found(extraArgs=["--sead", "1"]).problems
    assert str(problem) == "spec.engine.extraArgs: vLLM 0.32 has no flag --sead: did you mean --seed?"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (OWN_TAG, "whether the image's vLLM agrees is not known"),
        ("vllm/vllm-openai:v0.99.0", "whether vLLM 0.99 agrees is not known"),
        ("vllm/vllm-openai:v0.10.2", "whether vLLM 0.10 agrees is not known"),
    ],
)
def test_an_unknown_flag_is_doubted_where_the_version_is_not_known(image: str, says: str) -> None:
    findings = found(image, extraArgs=["--swap-spice", "1"], toolCalling={"parser": "own"})
    assert findings.problems == ()
    assert len([doubt for doubt in findings.doubts if says in doubt and NEWEST in doubt]) == 2


def test_a_vllm_that_is_older_than_any_that_is_known_is_doubted_whatever_is_asked_of_it() -> None:
    (doubt,) = found("vllm/vllm-openai:v0.10.2").doubts
    assert doubt == "vLLM 0.10 is older than 0.30: it may not know what the operator itself passes to it"
    assert found("vllm/vllm-openai:v0.99.0").doubts == ()


def test_owned_flags_are_refused_whatever_the_image() -> None:
    findings = found(OWN_TAG, extraArgs=["--tensor-parallel", "2", "--port", "1"])
    assert len(findings.problems) == 2
    assert findings.doubts == ()


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            {"toolCalling": {"parser": "hermes2"}},
            "spec.engine.toolCalling.parser: vLLM 0.32 has no parser 'hermes2': did you mean hermes?",
        ),
        (
            {"reasoning": {"parser": "deepseek-r1"}},
            "spec.engine.reasoning.parser: vLLM 0.32 has no parser 'deepseek-r1': did you mean deepseek_r1?",
        ),
        ({"toolCalling": {"parser": "zzz"}}, "has no parser 'zzz': it has apertus, "),
    ],
)
def test_unknown_parsers_are_refused(engine: dict[str, Any], expected: str) -> None:
    (problem,) = found(**engine).problems
    assert expected in str(problem)


def test_a_plugin_may_bring_a_parser() -> None:
    findings = found(toolCalling={"parser": "own"}, extraArgs=["--tool-parser-plugin", "/plugins/own.py"])
    assert findings == Findings(plugins=("--tool-parser-plugin",))


def test_offloading_and_another_connector_exclude_each_other() -> None:
    connector = ["--kv_transfer_config", '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}']
    assert found(extraArgs=connector).problems == ()
    (problem,) = found(OWN_TAG, extraArgs=connector, kvOffload={"size": "8Gi"}).problems
    assert "--kv-transfer-config would be overruled by spec.engine.kvOffload" in str(problem)


def test_every_version_is_asked_about_itself() -> None:
    assert found("vllm/vllm-openai:v0.33.0", extraArgs=["--monokernel"]).problems == ()
    (problem,) = found("vllm/vllm-openai:v0.31.0", extraArgs=["--monokernel"]).problems
    assert "vLLM 0.31 has no flag --monokernel: it is one of 0.33" in str(problem)


def test_an_own_server_is_asked_nothing() -> None:
    assert found(OWN_TAG, image=OWN_TAG, command=["serve"], extraArgs=["--port", "1", "x"]) == Findings()


def test_the_plan_refuses_and_warns() -> None:
    refused = plan_of(spec_of(engine={"extraArgs": ["--sead", "1"]}))
    assert refused.refusal is not None
    assert (refused.refusal.condition, refused.refusal.reason) == ("Accepted", "InvalidArguments")
    engine = {"image": OWN_TAG, "extraArgs": ["--sead", "1", "--worker-cls", "acme.Worker"]}
    plan = plan_of(spec_of(engine=engine))
    assert plan.refusal is None
    assert [warning.reason for warning in plan.warnings] == ["ArgumentsUnchecked", "PluginCode"]
    assert "--worker-cls" in plan.warnings[1].message
