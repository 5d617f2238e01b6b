"""The configuration files of a real node's programs. Paths are as the programs see them: below /run/node."""

import json
from pathlib import Path
from typing import Any

import yaml

from localcluster.network import Network
from localcluster.requirements import cni_folder, program

NODE_NAME = "real-0"
# Where the programs find the node's folder: short, since sockets below it may have 107 characters.
HOME = "/run/node"
SOCKET = "/run/containerd/containerd.sock"
SANDBOX_IMAGE = "localcluster.test/pause:1"
KUBELET_PORT, KUBELET_HEALTH_PORT, PROXY_HEALTH_PORT, DNS_HEALTH_PORT = 10250, 10248, 10256, 8080
CLUSTER_DOMAIN = "cluster.local"


def write(folder: Path, network: Network, cgroup: str) -> None:
    """Write every configuration file into `folder`, which the node sees as HOME."""
    (folder / "cni").mkdir()
    (folder / "containerd.toml").write_text(containerd(f"{HOME}/containerd", "/run/containerd"))
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(_cni(network)))
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(network, cgroup)))
    (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(_proxy(network)))
    (folder / "Corefile").write_text(_corefile(network))
    (folder / "resolv.conf").write_text("")


def containerd(root: str, state: str) -> str:
    """Return containerd's configuration with its data below `root` and its sockets below `state`."""
    return f"""\
version = 4
root = '{root}'
state = '{state}'
disabled_plugins = ['io.containerd.nri.v1.nri']
imports = []
[plugins.'io.containerd.server.v1.grpc']
  address = '{state}/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '{state}/containerd.sock.ttrpc'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{SANDBOX_IMAGE}'
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE a score cannot be lowered.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '{program("runc")}'
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{cni_folder()}']
    conf_dir = '{HOME}/cni'
"""


def _cni(network: Network) -> dict[str, Any]:
    # A link for each pod and not a bridge: what pods say to each other then passes the node's own rules, so that
    # Services work between them without the kernel's bridge filter.
    addresses = {
        "type": "host-local",
        "dataDir": f"{HOME}/cni-state",
        "ranges": [[{"subnet": network.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}


def _kubelet(network: Network, cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node,
        "port": KUBELET_PORT,
        "healthzBindAddress": network.node,
        "healthzPort": KUBELET_HEALTH_PORT,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{HOME}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "volumePluginDir": f"{HOME}/volume-plugins",
        "podLogsDir": f"{HOME}/pod-logs",
        "resolvConf": f"{HOME}/resolv.conf",
        "clusterDNS": [network.node],
        "clusterDomain": CLUSTER_DOMAIN,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        **_kubelet_limits(cgroup),
    }


def _kubelet_limits(cgroup: str) -> dict[str, Any]:
    """Return what lets the kubelet run beside everything else on a machine of any kind."""
    return {
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": ["none"],
        "oomScoreAdj": 0,
        # A full disk of this machine is not the tests' business, and images stay as they are.
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "imagefs.available", "nodefs.inodesFree", "imagefs.inodesFree"),
            "0%",
        ),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def _proxy(network: Network) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{HOME}/kube-proxy.kubeconfig"},
        "clusterCIDR": network.pods,
        "hostnameOverride": NODE_NAME,
        "bindAddress": network.node,
        "healthzBindAddress": f"{network.node}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # 0 leaves the kernel's settings as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }


def _corefile(network: Network) -> str:
    return f"""\
.:53 {{
    bind {network.node}
    errors
    health {network.node}:{DNS_HEALTH_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {HOME}/coredns.kubeconfig
        ttl 0
    }}
}}
"""
