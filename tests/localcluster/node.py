"""One real node: a kubelet with containerd, kube-proxy, a name server and a volume provisioner.

It lives in namespaces of its own: when the process that holds them ends, the kernel ends every container and undoes
every mount, link and rule, whatever ended it. This machine reaches pods and Services by a link to the node.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from images import recipes
from images.recipes import Image
from localcluster import cgroups, imagestore, kubeconfigs, nodeconfig, processes, requirements
from localcluster.errors import ComponentError, LinkTakenError, LocalClusterError
from localcluster.network import Network
from localcluster.nodeconfig import HOME, NODE_NAME
from localcluster.nodes import Manifest
from localcluster.paths import MANIFESTS
from localcluster.probe import status_of
from localcluster.processes import Process
from localcluster.requirements import program
from localcluster.state import Layout, State

_ENTER = Path(__file__).with_name("enter.py")
_PROVISIONER = Path(__file__).with_name("provisioner.py")
_BIN = f"{HOME}/bin"
_DEADLINE_SECONDS = 60.0
# The kernel's settings that a kubelet changes, which are of the whole machine: it gets files of its own to write to.
_TUNABLES = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_KEY_TUNABLES = ("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")

# Order of starting; `node` holds the namespaces of the others.
ORDER = ("node", "containerd", "kubelet", "kube-proxy", "coredns", "provisioner")
DEFAULT_IMAGES = ("pause", "tools", "vllm", "operator")


@dataclass(frozen=True, slots=True)
class Node:
    """The real node of one cluster."""

    layout: Layout
    record: State
    programs: Mapping[str, Path]

    @property
    def network(self) -> Network:
        """The node's addresses.

        Raises:
            LocalClusterError: the cluster was started without a real node.
        """
        if self.record.network is None:
            raise LocalClusterError(f"cluster {self.layout.name} has no real node; start it with --node")
        return self.record.network

    @property
    def volumes(self) -> Path:
        """The folder with one folder for each volume, named as the PersistentVolume; with the node's own mounts."""
        return Path(f"/proc/{self.record.processes['node'].pid}/root{HOME}/volumes")

    def start(self, server_port: int, tokens: Mapping[str, str], images: Sequence[Image], *, bound: bool) -> None:
        """Start the node's programs and wait until each answers.

        Args:
            server_port: where the API server listens on this machine.
            tokens: of the users in pki.NODE_IDENTITIES.
            images: what the node holds; the sandbox's must be among them.
            bound: the node ends with this process, whatever ends it.

        Raises:
            LocalClusterError: a program ended or did not answer; the text holds its last log lines.
        """
        self._write_files(server_port, tokens)
        imagestore.copy_to(self.layout.node / "containerd", images, self.layout.node / "bin")
        cgroups.create(self.layout.cgroup)
        for name in ORDER:
            self.launch(name, bound=bound)

    def launch(self, name: str, *, bound: bool) -> None:
        """Start one program of the node and wait until it answers."""
        command = self._holder() if name == "node" else self.enter(*self._arguments(name))
        log = self.layout.log(name)
        started = processes.spawn(command, log, self.layout.root, die_with_parent=bound)
        self.record.processes[name] = started
        self.record.save(self.layout)
        if name == "node":
            self._await(name, (self.layout.node / "initialised").exists)
            _connect(started, self.network)
        else:
            self._await(name, lambda: self._answers(name))

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs `command` inside the node; it ends when the returned command does."""
        holder = self.record.processes["node"]
        path = f"{_BIN}:{requirements.PATH}"
        return [sys.executable, "-I", "-S", str(_ENTER), str(holder.pid), path, *command]

    def run(self, *command: str) -> str:
        """Run a command inside the node, such as `ctr` or `mount`, and return its output.

        Raises:
            LocalClusterError: it ended with an error.
        """
        answer = subprocess.run(self.enter(*command), capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise LocalClusterError(
                f"`{' '.join(command)}` in the node ended with {answer.returncode}: {answer.stderr}"
            )
        return answer.stdout

    def load(self, image: Image, onto: Image | None = None) -> None:
        """Give the node one more image, or another content of one that it has; `onto` is one below it that it has."""
        imagestore.load(self.enter("ctr", "--address", nodeconfig.SOCKET, "--namespace", "k8s.io"), image, onto)

    def _write_files(self, server_port: int, tokens: Mapping[str, str]) -> None:
        folder, network = self.layout.node, self.network
        (folder / "bin").mkdir(parents=True)
        (folder / "volumes").mkdir()
        for name, path in self.programs.items():
            (folder / "bin" / name).symlink_to(path)
        nodeconfig.write(folder, network, self.layout.cgroup)
        shutil.copy2(self.layout.pki / "ca.crt", folder / "ca.crt")
        entry = kubeconfigs.cluster_entry(f"https://{network.host}:{server_port}", folder / "ca.crt")
        for user, token in tokens.items():
            name = "kubelet" if user.startswith("system:node:") else user.removeprefix("system:")
            kubeconfigs.write(folder / f"{name}.kubeconfig", self.layout.context, entry, token)

    def _holder(self) -> list[str]:
        """Return the command that makes the namespaces and holds them."""
        hidden = [f"hide /proc/sys/{name}" for name in (*_TUNABLES, *_KEY_TUNABLES)]
        lines = [
            "set -e",
            "mount -t tmpfs -o mode=755 tmpfs /run",
            f"mkdir {HOME} && mount --rbind '{self.layout.node}' {HOME}",
            "mount -t tmpfs tmpfs /var/log",
            "echo 1 >/proc/sys/net/ipv4/ip_forward",
            'hide() { [ -e "$1" ] || return 0; own=/run/tunable-${1##*/}; cat "$1" >$own; mount --bind $own "$1"; }',
            *hidden,
            f": >{HOME}/initialised",
            f"exec {self.programs['pause']}",
        ]
        isolated = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [program("unshare"), *isolated, "/bin/sh", "-c", "\n".join(lines)]

    def _arguments(self, name: str) -> tuple[str, ...]:
        arguments = {
            "containerd": (f"--config={HOME}/containerd.toml",),
            "kube-proxy": (f"--config={HOME}/kube-proxy.yaml",),
            "coredns": (f"-conf={HOME}/Corefile",),
            "kubelet": (
                f"--config={HOME}/kubelet.yaml",
                f"--kubeconfig={HOME}/kubelet.kubeconfig",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={self.network.node}",
                f"--root-dir={HOME}/kubelet",
                f"--cert-dir={HOME}/kubelet-pki",
            ),
        }
        if name == "provisioner":
            interpreter = (sys.executable, "-I", str(_PROVISIONER))
            return (*interpreter, f"{HOME}/provisioner.kubeconfig", f"{HOME}/volumes", NODE_NAME)
        return (name, *arguments[name])

    def _answers(self, name: str) -> bool:
        address = self.network.node
        urls = {
            "kubelet": f"http://{address}:{nodeconfig.KUBELET_HEALTH_PORT}/healthz",
            "kube-proxy": f"http://{address}:{nodeconfig.PROXY_HEALTH_PORT}/healthz",
            "coredns": f"http://{address}:{nodeconfig.DNS_HEALTH_PORT}/health",
        }
        if name == "containerd":
            command = self.enter("ctr", "--address", nodeconfig.SOCKET, "version")
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        return name not in urls or status_of(urls[name]) == 200

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not ready():
            if not self.record.processes[name].alive:
                raise ComponentError(name, "ended", self.layout.log(name))
            if time.monotonic() > deadline:
                raise ComponentError(name, f"was not ready after {_DEADLINE_SECONDS:g} s", self.layout.log(name))
            time.sleep(0.05)


def _connect(holder: Process, network: Network) -> None:
    """Lay the link between this machine and the node, and the routes to its pods and Services.

    Raises:
        LinkTakenError: the link is there already; clusters of another cache choose without asking this one's.
        LocalClusterError: a command ended with an error.
    """
    inside = [program("nsenter"), f"--net=/proc/{holder.pid}/ns/net"]
    ip = program("ip")
    peer = ["type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)]
    for command in (
        [ip, "link", "add", network.link, *peer],
        [ip, "address", "add", f"{network.host}/30", "dev", network.link],
        [ip, "link", "set", network.link, "up"],
        [*inside, ip, "link", "set", "lo", "up"],
        [*inside, ip, "address", "add", f"{network.node}/30", "dev", "eth0"],
        [*inside, ip, "link", "set", "eth0", "up"],
        [*inside, ip, "route", "add", "default", "via", network.host],
        [ip, "route", "add", network.pods, "via", network.node],
        [ip, "route", "add", network.services, "via", network.node],
    ):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            taken = command[1:3] == ["link", "add"] and "File exists" in answer.stderr
            error = LinkTakenError if taken else LocalClusterError
            raise error(f"`{' '.join(command)}` ended with {answer.returncode}: {answer.stderr.strip()}")


def storage_classes() -> list[Manifest]:
    """Return the StorageClasses that the node's provisioner serves."""
    return list(yaml.safe_load_all((MANIFESTS / "node" / "storageclasses.yaml").read_text()))


def images(names: Iterable[str] = DEFAULT_IMAGES) -> list[Image]:
    """Return the images called `names` in the table of recipes."""
    return [recipes.IMAGES[name]() for name in names]
