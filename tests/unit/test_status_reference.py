"""docs/status.md names every condition, phase and reason that the code can say, and none that it cannot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from vllm_operator.api.status import ConditionType, Phase
from vllm_operator.engine.diagnosis import failures

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "operator" / "vllm_operator"
TEXT = (ROOT / "docs" / "status.md").read_text()

# Modules that say nothing of a resource: models, commands, the process, arguments, templates, tables of names.
SILENT = re.compile(
    r"(api|app|cli|engine|render)/|(__main__|config|kinds|sources|telemetry|watch)\.py|sizing/(families|quantization)\.py"
)
# Words elsewhere that are no reasons: types, statuses and kinds of others, values of the spec, names of formats.
OTHER_WORDS = frozenset({
    "True", "False", "Unknown", "Normal", "Warning", "Status", "Gi", "Observation", "Metric",
    "ModelResolved", "Sized", "Advice", "Input", "Inventory", "Memory", "Validity",
    "AWQ", "FP8", "GPTQ", "INT8", "MXFP4", "MXFP8", "NVFP4", "ABC", "GPU", "CSafeLoader", "Family", "ModelFacts",
    "AbleToScale", "Complete", "ContainerCreating", "ContainersReady", "Failed", "PodInitializing", "PodScheduled",
    "ScalingActive", "Succeeded",
    "ContainerCannotRun", "ErrImagePull", "Error", "Job", "Killing",
    "Accept", "All", "Background", "BearerToken", "DELETE", "GET", "KUBECONFIG", "PATCH", "POST", "DELETED",
    "Author", "LeaseStore", "PUT", "TCP",
    "Cluster", "Connection", "Apply", "Bound", "Event", "HOME", "NamespaceTerminating",
    "Advisory", "Delete", "Exists", "IfNotPresent", "InFlight", "KVCacheUsage", "LoadBalancer", "NoSchedule", "Off",
    "OnRootMismatch", "Percent", "Range", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "Retain", "RuntimeDefault",
    "Waiting",
})  # fmt: skip
ARCHITECTURE = ("ForCausalLM", "ForConditionalGeneration")  # names of models' classes
# Said by Kubernetes and handed on; the text shows them as examples.
EXAMPLES = frozenset({"CrashLoopBackOff", "PostStartHookError"})


def _words(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^[A-Z][A-Za-z0-9]+$", node.value)


def _said() -> set[str]:
    """Every word that may be a reason."""
    modules = (path for path in PACKAGE.rglob("*.py") if not SILENT.match(str(path.relative_to(PACKAGE))))
    words = {word for path in modules for word in _words(path) if not word.endswith(ARCHITECTURE)}
    return (words - OTHER_WORDS - EXAMPLES) | {failure.reason for failure in failures() if failure.reason}


def _rows(heading: str) -> Iterator[list[str]]:
    """Cells of the tables below a heading, up to the next one of its level."""
    level = heading.split(maxsplit=1)[0]
    section = re.split(rf"\n(?={level} )", TEXT.split(f"\n{heading}\n", 1)[1])[0]
    for line in section.splitlines():
        if line.startswith("| ") and "`" in line:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z]+)`", cell))


def test_every_condition_is_described() -> None:
    assert {name for row in _rows("## Conditions") for name in _names(row[0])} == {one.value for one in ConditionType}


def test_every_phase_is_described() -> None:
    assert {name for row in _rows("## Phases") for name in _names(row[0])} == {one.value for one in Phase}


def test_every_reason_is_described_and_every_described_one_exists() -> None:
    said = _said()
    described = {name for row in _rows("## Reasons") for name in _names(row[0])}
    described |= {name for row in _rows("## Events") for name in _names(row[1])}
    described |= {"Settled", "Stalled", "Progressing"} & _names(TEXT)
    assert sorted(said - described) == []
    assert sorted(described - said) == []


def test_reasons_belong_to_conditions_that_exist() -> None:
    conditions = {one.value for one in ConditionType}
    for row in _rows("## Reasons"):
        if len(row) == 4:
            assert {name.strip() for name in row[1].split(",")} <= conditions, row


def test_handed_on_reasons_are_shown_as_such() -> None:
    assert _names(TEXT) >= EXAMPLES
