"""`validate FILE...`: what the operator would say to a resource, offline."""

from __future__ import annotations

import argparse
from typing import Any

from vllm_operator.api import API_VERSION
from vllm_operator.api.parse import parse_manifest
from vllm_operator.cli.documents import DEFAULT_NAMESPACE, Document, read_documents
from vllm_operator.cli.settings import configuration
from vllm_operator.cluster import schema_errors
from vllm_operator.errors import InvalidSpec
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Defaults, Facts, Plan
from vllm_operator.render import render

INVALID = 2


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "validate",
        help="check VLLMDeployments in files, without a cluster",
        description="Check what the API server checks, and what the operator checks after it: the model, the size, the "
        "arguments, the pod template. Other kinds of objects are passed over. Exit code 2 when something is wrong.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML file or folder; - is standard input")


def run(args: argparse.Namespace) -> int:
    """Print one line per resource, or one per problem."""
    _, defaults = configuration()
    wrong = [_check(document, defaults) for document in read_documents(args.files)]
    return INVALID if any(wrong) else 0


def _check(document: Document, defaults: Defaults) -> bool:
    """Print what is wrong with a document; true when something is."""
    if document.content.get("apiVersion") != API_VERSION:
        return False
    problems, plan = _problems(document, defaults)
    for problem in problems:
        print(f"{document.where}: {problem}")
    if not problems and plan:
        print(f"{document.where}: ok{_summary(plan)}")
    return bool(problems)


def _problems(document: Document, defaults: Defaults) -> tuple[list[str], Plan | None]:
    try:
        resource = parse_manifest(document.content, DEFAULT_NAMESPACE)
    except InvalidSpec as error:
        return [str(problem) for problem in error.problems], None
    plan = make_plan(resource, defaults, Facts())
    if plan.refusal:
        return [f"{plan.refusal.reason}: {problem}" for problem in plan.refusal.problems], plan
    return [f"podTemplate: {error}" for manifest in render(plan) for error in schema_errors(manifest)], plan


def _summary(plan: Plan) -> str:
    sizing = plan.sizing
    if sizing is None or sizing.gpu is None:
        return ""
    return f" ({sizing.gpus} x {sizing.gpu.product}, {sizing.verdict})"
