"""Makes a folder for each claim on the real node, and removes it with the claim: provisioner.py KUBECONFIG FOLDER NODE.

What an external provisioner does, and no more: a local PersistentVolume for every pending claim of its classes, and
the end of volumes that are released. Binding is the controller-manager's. With the class parameter `limit` (size of
a tmpfs, tmpfs(5)) a volume holds no more than that. Runs in the node's namespaces.
"""

import base64
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

PROVISIONER = "localcluster.test/folder"
_WANTED = "volume.kubernetes.io/storage-provisioner"
_RETRY_SECONDS = 0.5
_WATCH_SECONDS = 300
Object = dict[str, Any]


class Api:
    """The few calls that the provisioner makes."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server: str = cluster["server"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self._headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Object | None = None) -> Object:
        """Return the decoded answer; {} where the object is not there, or is there already."""
        try:
            with self._open(method, path, body) as answer:
                found: Object = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code in (404, 409):
                return {}
            raise

    def watch(self, path: str) -> Iterator[Object]:
        """Yield every object as it is now, and again whenever it changes, until the connection ends."""
        separator = "&" if "?" in path else "?"
        with self._open("GET", f"{path}{separator}watch=true&timeoutSeconds={_WATCH_SECONDS}", None) as lines:
            for line in lines:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _open(self, method: str, path: str, body: Object | None) -> Any:  # noqa: ANN401 - urllib's response
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data, self._headers, method=method)  # noqa: S310 - https
        return urllib.request.urlopen(request, timeout=_WATCH_SECONDS + 30, context=self._tls)  # noqa: S310


class Provisioner:
    """Gives claims their volumes."""

    def __init__(self, api: Api, folder: Path, node: str) -> None:
        self._api, self._folder, self._node = api, folder, node

    def provision(self, claim: Object) -> None:
        """Make the volume of a claim that waits for one."""
        annotations = claim["metadata"].get("annotations", {})
        waits = claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName")
        if not waits or annotations.get(_WANTED) != PROVISIONER or "deletionTimestamp" in claim["metadata"]:
            return
        name = f"pvc-{claim['metadata']['uid']}"
        storage_class = claim["spec"]["storageClassName"]
        parameters = self._api.call("GET", f"/apis/storage.k8s.io/v1/storageclasses/{quote(storage_class)}")
        self._make(self._folder / name, parameters.get("parameters") or {})
        self._api.call("POST", "/api/v1/persistentvolumes", self._volume(name, claim))

    def release(self, volume: Object) -> None:
        """Remove a volume whose claim is gone, and its folder."""
        annotations = volume["metadata"].get("annotations", {})
        ours = annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        if not ours or volume["status"].get("phase") not in ("Released", "Failed"):
            return
        if volume["spec"]["persistentVolumeReclaimPolicy"] != "Delete":
            return
        name = volume["metadata"]["name"]
        folder = self._folder / name
        if folder.is_mount():
            subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
        self._api.call("DELETE", f"/api/v1/persistentvolumes/{name}")

    def _make(self, folder: Path, parameters: dict[str, str]) -> None:
        if folder.exists():
            return
        folder.mkdir(parents=True)
        if limit := parameters.get("limit"):
            options = f"size={limit},mode=755"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)

    def _volume(self, name: str, claim: Object) -> Object:
        spec, metadata = claim["spec"], claim["metadata"]
        reference = {key: metadata[key] for key in ("name", "namespace", "uid")}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
            "spec": {
                "accessModes": spec["accessModes"],
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": spec["storageClassName"],
                "volumeMode": spec.get("volumeMode", "Filesystem"),
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
                "local": {"path": str(self._folder / name)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [self._here()]}]}},
            },
        }

    def _here(self) -> Object:
        return {"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}


def serve(api: Api, path: str, handle: Callable[[Object], None]) -> None:
    """Handle every object at `path` as it is and whenever it changes, for ever; after a failure look at all again."""
    while True:
        try:
            for found in api.watch(path):
                handle(found)
        except (OSError, http.client.HTTPException, subprocess.CalledProcessError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr, flush=True)
            time.sleep(_RETRY_SECONDS)


def main() -> None:
    api = Api(Path(sys.argv[1]))
    provisioner = Provisioner(api, Path(sys.argv[2]), sys.argv[3])
    volumes = threading.Thread(target=serve, args=(api, "/api/v1/persistentvolumes", provisioner.release))
    volumes.start()
    serve(api, "/api/v1/persistentvolumeclaims", provisioner.provision)


if __name__ == "__main__":
    main()
