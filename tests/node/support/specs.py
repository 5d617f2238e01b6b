"""Specs of VLLMDeployments that are cheap to run: vLLM with the tiny model, and a server of three lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.support.service import merged
from node.support.broken import WHOLE
from node.support.workloads import TOOLS_IMAGE
from vllm_operator.api import API_VERSION, KIND

_ANSWERS = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("", 8000), Answer).serve_forever()
"""
ANSWERS = ["python3", "-c", _ANSWERS]
# Longer than the shortest startup budget; a process that is number 1 ignores SIGTERM unless it says otherwise.
_WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); time.sleep(65)"
SLOWLY = ["python3", "-c", _WAITS + _ANSWERS]
SMALL = {"requests": {"cpu": "50m", "memory": "64Mi"}}


def pod(resources: Mapping[str, Any] = SMALL, **rest: Any) -> dict[str, Any]:  # noqa: ANN401 - a pod's spec
    """Return what lays resources of the server's container, and more of a pod's spec, over the template."""
    return {"podTemplate": {"spec": {"containers": [{"name": "vllm", "resources": resources}], **rest}}}


def resource(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a VLLMDeployment."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": dict(content)}


def spec(hub: str, *patches: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of vLLM with the whole model, with merge patches laid over it."""
    made: dict[str, Any] = {
        "model": {"source": f"hf://{WHOLE}", "dtype": "float32", "maxLength": 512, "servedNames": ["whole"]},
        "gpu": {"count": 0},
        "engine": {
            "env": [{"name": "HF_ENDPOINT", "value": hub}],
            "maxSequences": 4,
            "maxBatchedTokens": 512,
            "kvCacheMemory": "64Mi",
            "enforceEager": True,
        },
        "cache": {"size": "1Gi", "reclaimPolicy": "Delete"},
        "lifecycle": {"drainSeconds": 0, "preStopSeconds": 0},
        **pod(),
    }
    for patch in patches:
        made = merged(made, patch)
    return made


def own(hub: str, *patches: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of a server that answers everything with 200."""
    unset = dict.fromkeys(("maxSequences", "maxBatchedTokens", "kvCacheMemory", "enforceEager"))
    return spec(hub, {"engine": {**unset, "image": TOOLS_IMAGE, "command": ANSWERS}}, *patches)
