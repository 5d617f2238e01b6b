"""The stages that tell kwok what the kubelets and the volume provisioner of a simulated cluster do."""

from pathlib import Path
from typing import Any

import yaml

from localcluster.paths import MANIFESTS


def stages() -> list[dict[str, Any]]:
    """Return the kwok stages of nodes, pods and volumes."""
    lists = [yaml.safe_load(path.read_text()) for path in sorted((MANIFESTS / "stages").glob("*.yaml"))]
    return [stage for document in lists for stage in document["items"]]


def storage_classes() -> list[dict[str, Any]]:
    """Return the StorageClasses that the volume stages serve."""
    return list(yaml.safe_load_all((MANIFESTS / "storageclasses.yaml").read_text()))


def write_config(path: Path) -> None:
    """Write kwok's configuration file; stages given so need no custom resource definitions."""
    path.write_text(yaml.safe_dump_all(stages()))
