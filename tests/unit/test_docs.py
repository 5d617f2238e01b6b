"""What the README and docs/ say can be followed: links, files, targets, modules, resources, metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vllm_operator.api.parse import parse
from vllm_operator.plan import make_plan
from vllm_operator.plan.scaling import metrics
from vllm_operator.plan.types import Defaults, Facts
from vllm_operator.sizing.types import Verdict

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "localcluster" / "README.md"]


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if found.suffix != ".md" and (found.parent / f"{found.name}.md").exists():
            found = found.parent / f"{found.name}.md"
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(found), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "manifests|charts|operator|tests|docs|scripts|crds"
    for name in re.findall(rf"(?<![\w/$-])((?:{folders})/[\w./-]*\w)", page.read_text()):
        assert any((root / name).exists() for root in (ROOT, page.parent)), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    for name, *inner in (one.split("::") for one in re.findall(r"`(test_\w+\.py(?:::\w+)+)`", page.read_text())):
        files = list((ROOT / "tests").rglob(name))
        assert files, f"{page.name}: {name}"
        for one in inner:
            defined = rf"^\s*(?:async def|def|class) {one}\b"
            assert any(re.search(defined, file.read_text(), re.MULTILINE) for file in files), f"{page.name}: {one}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^    )make ([a-z]+(?:-[a-z]+)*)", page.read_text(), re.MULTILINE)
    assert set(named) <= known


def test_the_resource_of_the_readme_fits_as_it_says() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    body = yaml.safe_load(text)
    body["metadata"] |= {"namespace": "default", "uid": "1", "generation": 1}
    plan = make_plan(parse(body), Defaults(), Facts())
    assert plan.refusal is None
    assert plan.sizing is not None
    assert (plan.sizing.verdict, plan.sizing.gpus, plan.sizing.tensor) == (Verdict.FITS, 2, 2)


def test_every_command_is_in_the_readme() -> None:
    shown = set(re.findall(r"`vllm-operator ([a-z]+)", PAGES[0].read_text()))
    assert shown == {path.stem for path in (ROOT / "operator" / "vllm_operator" / "cli").glob("*.py")} - {
        "__init__",
        "documents",
        "settings",
    }


def test_every_module_is_in_the_architecture() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Layers")[1].split("## Decisions")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    package = ROOT / "operator" / "vllm_operator"
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert named == there - {"__init__"}


def _published() -> set[str]:
    """Names under which the adapter rules publish vLLM's metrics."""
    rules = yaml.safe_load((ROOT / "manifests" / "prometheus-adapter-rules.yaml").read_text())["rules"]
    series = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:other")
    found = set()
    for rule in rules:
        operator, pattern = re.findall(r'__name__(=~?)"(.*?)"', rule["seriesQuery"])[0]
        for name in series:
            if re.fullmatch(pattern, name) if operator == "=~" else pattern == name:
                found.add(re.sub(rule["name"]["matches"], rule["name"]["as"].replace("$1", r"\1"), name))
    return found


def test_the_adapter_publishes_exactly_what_autoscalers_ask_for() -> None:
    asked = set()
    for metric in ("InFlight", "Waiting", "KVCacheUsage"):
        spec = {"model": {"source": "hf://Qwen/Qwen3-8B"}, "autoscaling": {"maxReplicas": 2, "metric": metric}}
        resource = parse({"metadata": {"name": "a", "namespace": "b", "uid": "1"}, "spec": spec})
        assert resource.spec.autoscaling is not None
        settings = make_plan(resource, Defaults(), Facts()).settings
        asked |= {one["name"] for one in metrics(resource.spec.autoscaling, settings)}
    assert _published() == asked
    text = (ROOT / "docs" / "autoscaling.md").read_text()
    assert all(f"`{name}`" in text for name in asked)
