"""The programs that the harness builds, and which module each comes from.

Versions are written once, in the go.mod files under go/.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import LocalClusterError
from localcluster.paths import GO_MODULES, bin_root

# Stripped, without paths of the building machine; CGO_ENABLED=0 (BUILD_ENV) makes them static.
BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
BUILD_ENV = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
STRIP = ("-s", "-w")
# Of programs whose source is here: what decides them is their key.
OWN_VERSION = "v1.0.0"

# Without these kubectl, the API server's /version and API discovery report v0.0.0.
KUBERNETES_VERSION_SYMBOLS = (
    "k8s.io/component-base/version.gitVersion={version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
    "k8s.io/component-base/version.gitTreeState=clean",
    "k8s.io/client-go/pkg/version.gitVersion={version}",
)


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its name, the main package, the module that carries its version, and linker symbols to set."""

    name: str
    package: str
    module: str
    go_module: str = "controlplane"
    symbols: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the committed go.mod this program is built from."""
        return GO_MODULES / self.go_module

    @property
    def version(self) -> str:
        """The version of the program's module that go.mod requires, such as v1.36.3, or OWN_VERSION."""
        if not self.module:
            return OWN_VERSION
        return required_version(self.folder / "go.mod", self.module)

    @property
    def ldflags(self) -> str:
        """The linker flags: stripped, with the version symbols filled in."""
        version = self.version
        major, minor, *_ = version.removeprefix("v").split(".")
        symbols = [f"-X {s.format(version=version, major=major, minor=minor)}" for s in self.symbols]
        return " ".join([*STRIP, *symbols])

    @property
    def key(self) -> str:
        """Twelve hex digits over everything that decides the binary: dependencies, package and flags."""
        parts = [self.package, self.ldflags, *BUILD_FLAGS, *(f"{k}={v}" for k, v in BUILD_ENV.items())]
        digest = hashlib.sha256("\0".join(parts).encode())
        for name in ("go.mod", "go.sum", *(("main.go",) if self.package == "." else ())):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:12]

    @property
    def path(self) -> Path:
        """Where the built program is, or will be."""
        return bin_root() / f"{self.name}-{self.version}-{self.key}"


def required_version(go_mod: Path, module: str) -> str:
    """Return the version that `go_mod` requires of `module`.

    Raises:
        LocalClusterError: the file does not require the module.
    """
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if match is None:
        raise LocalClusterError(f"{go_mod} does not require {module}; add it and run `go mod tidy` beside it")
    return match[1]


def go_directive(go_mod: Path) -> tuple[int, int]:
    """Return the (major, minor) Go version that `go_mod` asks for."""
    match = re.search(r"^go (\d+)\.(\d+)", go_mod.read_text(), re.MULTILINE)
    if match is None:
        raise LocalClusterError(f"{go_mod} has no `go` line; add one such as `go 1.26.0`")
    return int(match[1]), int(match[2])


def _containerd(name: str) -> Tool:
    return Tool(
        name=name,
        package=f"github.com/containerd/containerd/v2/cmd/{name}",
        module="github.com/containerd/containerd/v2",
        go_module="containerd",
        symbols=("github.com/containerd/containerd/v2/version.Version={version}",),
    )


def _kubernetes(name: str) -> Tool:
    return Tool(
        name=name,
        package=f"k8s.io/kubernetes/cmd/{name}",
        module="k8s.io/kubernetes",
        symbols=KUBERNETES_VERSION_SYMBOLS,
    )


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(name="etcd", package="go.etcd.io/etcd/server/v3", module="go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _containerd("containerd"),
        _containerd("containerd-shim-runc-v2"),
        _containerd("ctr"),
        Tool(name="kwok", package="sigs.k8s.io/kwok/cmd/kwok", module="sigs.k8s.io/kwok"),
        Tool(name="coredns", package=".", module="github.com/coredns/coredns", go_module="coredns"),
        Tool(name="pause", package=".", module="", go_module="pause"),
        Tool(
            name="helm",
            package="helm.sh/helm/v4/cmd/helm",
            module="helm.sh/helm/v4",
            go_module="helm",
            symbols=("helm.sh/helm/v4/internal/version.version={version}",),
        ),
    )
}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
NODE = ("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "coredns", "pause")
