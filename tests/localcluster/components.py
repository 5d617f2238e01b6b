"""The command line of each program of the control plane, and where it answers that it is ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.network import Network
from localcluster.nodes import KWOK_ANNOTATION
from localcluster.paths import MANIFESTS
from localcluster.state import Layout

# The API server must advertise an address that is not loopback, though nothing here connects to it: no pod of a
# simulated node runs. 192.0.2.0/24 is reserved for documentation (RFC 5737).
ADVERTISE_ADDRESS = "192.0.2.1"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"
POD_CIDR = "10.245.0.1/16"

# Order of starting; the last three need an API server that is ready.
ORDER = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


@dataclass(frozen=True, slots=True)
class Component:
    """One program of the control plane: the arguments it is started with and the URL that answers 200 when ready."""

    name: str
    arguments: tuple[str, ...]
    ready_url: str


def component(name: str, layout: Layout, ports: Mapping[str, int], network: Network | None = None) -> Component:
    """Return how to start the component called `name` of the cluster at `layout`.

    Args:
        name: one of ORDER.
        layout: the cluster's files.
        ports: see state.PORT_NAMES.
        network: the addresses of a cluster that has a real node.
    """
    builders = {
        "etcd": _etcd,
        "kube-apiserver": _apiserver,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
        "kwok": _kwok,
    }
    arguments = (*builders[name](layout, ports), *_addresses(name, network))
    return Component(name, arguments, ready_url(name, ports))


def _addresses(name: str, network: Network | None) -> tuple[str, ...]:
    """Return the arguments that differ between a cluster with a real node and one without."""
    services = network.services if network else SERVICE_CIDR
    if name == "kube-controller-manager":
        return (f"--service-cluster-ip-range={services}",)
    if name != "kube-apiserver":
        return ()
    return (
        # The node and its pods reach it by this machine's end of their link.
        f"--bind-address={'0.0.0.0' if network else '127.0.0.1'}",  # noqa: S104 - two addresses, and it takes one
        f"--advertise-address={network.host if network else ADVERTISE_ADDRESS}",
        f"--service-cluster-ip-range={services}",
    )


def endpoint(name: str, ports: Mapping[str, int]) -> str:
    """Return the URL that the component serves on."""
    scheme = "http" if name in ("etcd", "kwok") else "https"
    return f"{scheme}://127.0.0.1:{ports[name]}"


def ready_url(name: str, ports: Mapping[str, int]) -> str:
    """Return the URL that answers 200 once the component is ready."""
    path = "/healthz" if name == "kube-controller-manager" else "/readyz"
    return endpoint(name, ports) + path


def _etcd(layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
    return (
        "--name=local",
        f"--data-dir={layout.root / 'etcd'}",
        # The data survives a killed etcd, which is all a test asks for; it need not survive a power cut.
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=local={peer}",
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=10000",
    )


def _apiserver(layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    return (
        f"--etcd-servers={endpoint('etcd', ports)}",
        f"--secure-port={ports['kube-apiserver']}",
        "--authorization-mode=Node,RBAC",
        # PodSecurity is among the plugins that are on by default.
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--event-ttl=1h",
        "--shutdown-delay-duration=0s",
        "--profiling=false",
        *_apiserver_identity(layout.pki),
        *_apiserver_aggregation(layout.pki),
        f"--audit-policy-file={MANIFESTS / 'audit-policy.yaml'}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-maxsize=1000000",  # MB: never rotated, because a reader may remember an offset; 0 means 100
    )


def _apiserver_identity(pki: Path) -> tuple[str, ...]:
    return (
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--token-auth-file={pki}/tokens.csv",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
    )


def _apiserver_aggregation(pki: Path) -> tuple[str, ...]:
    return (
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--enable-aggregator-routing=true",
    )


def _controller_manager(layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    return (
        *_controller_flags("kube-controller-manager", layout, ports),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={layout.pki}/service-account.key",
        f"--root-ca-file={layout.pki}/ca.crt",
        f"--cluster-signing-cert-file={layout.pki}/ca.crt",
        f"--cluster-signing-key-file={layout.pki}/ca.key",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--horizontal-pod-autoscaler-downscale-stabilization=5s",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=40s",
    )


def _scheduler(layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    return _controller_flags("kube-scheduler", layout, ports)


def _controller_flags(name: str, layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    kubeconfig = layout.component_kubeconfig(f"system:{name}")
    return (
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports[name]}",
        # The API server's certificate serves: it is for 127.0.0.1, and making one's own key takes time.
        f"--tls-cert-file={layout.pki}/apiserver.crt",
        f"--tls-private-key-file={layout.pki}/apiserver.key",
        "--leader-elect=false",
        # The default of 20 calls a second alone would cost seconds.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--profiling=false",
    )


def _kwok(layout: Layout, ports: Mapping[str, int]) -> tuple[str, ...]:
    arguments = kwok_arguments(layout.component_kubeconfig("kwok"), layout.root / "kwok.yaml")
    return (*arguments, f"--server-address=127.0.0.1:{ports['kwok']}")


def kwok_arguments(kubeconfig: Path, config: Path) -> tuple[str, ...]:
    """Return the arguments of kwok, which plays the kubelets of the nodes that carry its annotation."""
    return (
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={'='.join(KWOK_ANNOTATION)}",
        f"--cidr={POD_CIDR}",
        "--node-ip=127.0.0.1",
        "--node-lease-duration-seconds=40",
        "-v=WARN",
    )
