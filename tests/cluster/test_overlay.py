"""The merge of the pod template's overlay is that of kubectl, which needs no cluster for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from overlays import BASE, CASES
from vllm_operator.render.overlay import strategic_merge


def without_order(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON without the order of objects in lists: kubectl puts new items first."""
    if isinstance(value, dict):
        return {key: without_order(child) for key, child in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted((without_order(item) for item in value), key=partial(json.dumps, sort_keys=True))
    return value


def patched(kubectl: Kubectl, file: Path, patch: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    asked = f"--patch={json.dumps({'template': patch})}"
    return kubectl.json("patch", "--local", "--type=strategic", f"--filename={file}", asked)["template"]


def test_kubectl_agrees(cluster: ClusterAccess, tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
    file.write_text(json.dumps({**head, "template": BASE}))
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda case: patched(cluster.kubectl, file, case[0]), CASES.values())
    for case, theirs in zip(CASES, answers, strict=True):
        assert without_order(strategic_merge(BASE, CASES[case][0])) == without_order(theirs), case
