"""`render FILE`: the children of a resource as YAML, offline."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from vllm_operator.cli.documents import read_resources
from vllm_operator.cli.settings import configuration
from vllm_operator.plan import make_plan
from vllm_operator.plan.types import Facts
from vllm_operator.render import render

REFUSED = 3


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "render",
        help="print the children of a VLLMDeployment as YAML, without a cluster",
        description="Print what the operator would apply. Nodes are unknown offline: a GPU product that the resource "
        "does not name is chosen from the whole GPU table. Exit code 3 when the operator would refuse the resource.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML file or folder; - is standard input")
    parser.add_argument("-n", "--namespace", help="namespace of resources that name none")


def run(args: argparse.Namespace) -> int:
    """Print the manifests of every resource; 3 when one is refused, UsageError when one is not valid."""
    _, defaults = configuration()
    code = 0
    for document, resource in read_resources(args.files, args.namespace):
        plan = make_plan(resource, defaults, Facts())
        if plan.refusal:
            print(f"{document.where}: refused ({plan.refusal.reason}): {plan.refusal.message}", file=sys.stderr)
            code = REFUSED
            continue
        for warning in plan.warnings:
            print(f"{document.where}: {warning.reason}: {warning.message}", file=sys.stderr)
        for manifest in render(plan):
            print("---\n" + yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True), end="")
    return code
