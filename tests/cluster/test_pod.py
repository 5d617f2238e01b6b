"""The operator as its pod runs it: in-cluster credentials, uid 65532 without capabilities, nothing writable."""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import operator_process
from localcluster import deathsig, probe
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.wait import wait_for

# A mount namespace of its own: what a pod mounts, and the packages, on a filesystem that is read-only otherwise.
_CONFINE = """
set -eu
mount -t tmpfs tmpfs /run
account=/run/secrets/kubernetes.io/serviceaccount
mkdir -p $account /run/python /run/site /run/operator
cp {account}/* $account/
mount --bind {python} /run/python
mount --bind {site} /run/site
mount --bind {operator} /run/operator
chmod 755 /run
mount -o remount,bind,ro /run
mount -o remount,bind,ro /
exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
  env --ignore-environment {variables} /run/python/bin/{interpreter} {start}
"""
_TRY_TO_WRITE = "import tempfile; tempfile.TemporaryFile()"


def _may_confine() -> bool:
    command = ["unshare", "--mount", "true"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _may_confine(), reason="needs root and mount namespaces")


@pytest.fixture(scope="module")
def own_cluster(cluster: ClusterAccess) -> Iterator[Cluster]:
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the local control plane; run without CLUSTER=kind")
    started = Cluster.start(f"pod-{os.getpid()}", bound=True)
    operator_process.install(started.kubectl)
    yield started
    started.down()


def _account(cluster: Cluster, folder: Path) -> tuple[Path, str]:
    """What the kubelet would mount for the service account, and the API server's address."""
    path = cluster.kubeconfig_for(operator_process.ACCOUNT, operator_process.NAMESPACE)
    content = yaml.safe_load(path.read_text())
    entry = content["clusters"][0]["cluster"]
    folder.mkdir()
    (folder / "token").write_text(content["users"][0]["user"]["token"])
    (folder / "ca.crt").write_bytes(_authority(entry))
    (folder / "namespace").write_text(operator_process.NAMESPACE)
    return folder, entry["server"]


def _authority(entry: dict[str, str]) -> bytes:
    if "certificate-authority" in entry:
        return Path(entry["certificate-authority"]).read_bytes()
    return base64.b64decode(entry["certificate-authority-data"])


def _image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets, but for PATH."""
    text = (operator_process.ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (words,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return dict(word.split("=", 1) for word in words.split() if not word.startswith("PATH="))


def _command(folder: Path, server: str, port: int, start: str) -> list[str]:
    address = urlsplit(server)
    variables = {
        "KUBERNETES_SERVICE_HOST": address.hostname or "",
        "KUBERNETES_SERVICE_PORT": str(address.port),
        "LD_LIBRARY_PATH": "/run/python/lib",
        "PYTHONPATH": "/run/site:/run/operator",
        "VLLM_OPERATOR_HEALTH_PORT": str(port),
        **_image_environment(),
    }
    script = _CONFINE.format(
        account=folder,
        python=sys.base_prefix,
        site=sysconfig.get_path("purelib"),
        operator=operator_process.PACKAGES,
        variables=" ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()),
        interpreter=f"python{sys.version_info.major}.{sys.version_info.minor}",
        start=start,
    )
    confined = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
    return [sys.executable, "-I", "-S", deathsig.__file__, str(os.getpid()), "/usr/bin/env", *confined]


def test_nothing_is_writable_there(own_cluster: Cluster, tmp_path: Path) -> None:
    folder, server = _account(own_cluster, tmp_path / "account")
    command = _command(folder, server, 0, f"-c {shlex.quote(_TRY_TO_WRITE)}")
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "No usable temporary directory" in tried.stderr


def test_it_works_as_its_pod_runs_it(own_cluster: Cluster, tmp_path: Path) -> None:
    folder, server = _account(own_cluster, tmp_path / "account")
    port = operator_process.free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(folder, server, port, "-m vllm_operator run"), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(
            lambda: process.poll() is not None or probe.status_of(f"http://127.0.0.1:{port}/readyz") == 200,
            60,
            "the operator is ready",
        )
        assert process.poll() is None, log.read_text()
        kubectl = own_cluster.kubectl.in_namespace("default")
        kubectl("apply", f"--filename={operator_process.ROOT / 'manifests' / 'samples' / 'mistral-7b.yaml'}")
        kubectl("wait", "--for=condition=Ready", "vllmdeployment/mistral-7b", "--timeout=60s", timeout=70)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=40)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()
