"""The kinds of objects that the operator reads or writes."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_operator.api import API_VERSION, KIND, PLURAL


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the Kubernetes API; an `optional` one is another project's and may be missing from a cluster."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    optional: bool = False

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version within the group."""
        return self.api_version.rpartition("/")[2]

    def __str__(self) -> str:
        """The kind as people say it."""
        return self.kind


RESOURCE = Kind(API_VERSION, KIND, PLURAL)
NODE = Kind("v1", "Node", "nodes", namespaced=False)
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")

SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
JOB = Kind("batch/v1", "Job", "jobs")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
SERVICE = Kind("v1", "Service", "services")
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", optional=True)
PROMETHEUS_RULE = Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", optional=True)

# In the order in which they are applied: what a pod needs comes before the pod.
CHILDREN = (
    SERVICE_ACCOUNT,
    CLAIM,
    NETWORK_POLICY,
    JOB,
    SERVICE,
    DEPLOYMENT,
    AUTOSCALER,
    DISRUPTION_BUDGET,
    CONFIG_MAP,
    POD_MONITOR,
    PROMETHEUS_RULE,
)
# Pods run with the rights of the account, write into the claim and are guarded by the policy.
UNDER_PODS = (SERVICE_ACCOUNT, CLAIM, NETWORK_POLICY)
WITH_PODS = (JOB, DEPLOYMENT)
BY_NAME = {(kind.api_version, kind.kind): kind for kind in (*CHILDREN, RESOURCE, NODE, POD, EVENT, LEASE)}
