"""What kstatus says of a custom resource: the rules by which Flux, kpt and others wait for objects.

Written after the documentation of sigs.k8s.io/cli-utils, pkg/kstatus (README.md, "Conditions"): generation first, then
the abnormal-true conditions in the order in which they stand, then Ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kstatus(resource: Mapping[str, Any]) -> str:
    """Terminating, InProgress, Failed or Current."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    for condition in status.get("conditions", ()):
        if condition["status"] == "True" and condition["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if condition["type"] == "Reconciling" else "Failed"
    ready = [condition["status"] for condition in status.get("conditions", ()) if condition["type"] == "Ready"]
    return "Current" if all(one == "True" for one in ready) else "InProgress"
