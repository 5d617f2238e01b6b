"""An admission webhook of somebody else that answers every question with 500."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cluster.support.api import Manifest
from localcluster.pki import Authority

PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


class _Broken(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextmanager
def broken_webhook(folder: Path) -> Iterator[Manifest]:
    """A server that fails, meanwhile; gives the `clientConfig` that leads to it. Its keys are written into `folder`."""
    Authority(folder, "webhook-ca").server("webhook", ("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "webhook.crt", folder / "webhook.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Broken)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    authority = base64.b64encode((folder / "webhook-ca.crt").read_bytes()).decode()
    try:
        yield {"url": f"https://127.0.0.1:{server.server_port}/", "caBundle": authority}
    finally:
        server.shutdown()
        server.server_close()


def on_deployments(namespace: str, client: Manifest) -> Manifest:
    """The configuration by which it is asked about every Deployment in a namespace, and fails closed."""
    hook = {
        "name": "broken.example.com",
        "clientConfig": client,
        "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": namespace}, "webhooks": [hook]}
