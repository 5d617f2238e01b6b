"""`spec`: everything a user can ask for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from vllm_operator.api.base import ApiObject, Rule, SecretKeyRef, without_nulls
from vllm_operator.api.engine_spec import Engine
from vllm_operator.api.fields import (
    Between,
    Bool,
    GPUCount,
    NodeCount,
    Number,
    OptionalLabelName,
    OptionalObjectName,
    ParallelSize,
    Passthrough,
    Port,
    Quantity,
    QuantityOrAuto,
    ResourceName,
    SecretKey,
)
from vllm_operator.api.model_spec import Model


class GPU(ApiObject):
    """The GPUs of one replica."""

    product: OptionalLabelName = ""
    """A product of the GPU table, as in the node label nvidia.com/gpu.product; unset: chosen from the nodes."""

    count: GPUCount = "auto"
    """GPUs per replica, or auto: the fewest that hold the model. 0 runs vLLM's CPU backend."""

    memory: Quantity | None = None
    """Memory of one GPU, for a product that the table does not know."""

    memory_utilization: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory that vLLM may use; default from the profile."""

    resource_name: ResourceName | None = None
    """Extended resource that counts the GPUs; default from the GPU table (nvidia.com/gpu)."""

    @property
    def names_a_gpu(self) -> bool:
        """Whether a field is set that only a GPU can have."""
        return bool(self.product or self.memory or self.resource_name)


class Parallelism(ApiObject):
    """How one replica is spread over its GPUs."""

    tensor: ParallelSize = "auto"
    """Tensor parallel size."""

    pipeline: ParallelSize = "auto"
    """Pipeline parallel size."""

    nodes: NodeCount = "auto"
    """Nodes per replica; 1 for now, more are refused."""

    expert: Bool = False
    """Expert parallelism, for mixture-of-experts models."""

    @property
    def is_single(self) -> bool:
        """Whether nothing asks for more than one process."""
        return not self.expert and all(size in ("auto", 1) for size in (self.tensor, self.pipeline, self.nodes))


class Sizing(ApiObject):
    """What a failed size check means."""

    mode: Literal["Strict", "Advisory", "Off"] = "Strict"
    """Strict refuses what is not sure to fit; Advisory lets it run with a warning; Off checks nothing."""


class Autoscaling(ApiObject):
    """Replicas that follow the load."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be above maxReplicas",
            lambda s: s.min_replicas <= s.max_replicas,
        ),
        Rule(
            "!has(self.target) || self.metric != 'KVCacheUsage' || self.target <= 100",
            "the target of KVCacheUsage is a percentage: at most 100",
            lambda s: s.target is None or s.metric != "KVCacheUsage" or s.target <= 100,  # noqa: PLR2004
        ),
    )

    min_replicas: Annotated[int, Between(1, 1000)] = 1
    """Fewest replicas."""

    max_replicas: Annotated[int, Between(1, 1000)]
    """Most replicas."""

    metric: Literal["InFlight", "Waiting", "KVCacheUsage"] = "InFlight"
    """What the load is measured by: requests running and waiting, requests waiting, or KV cache in percent."""

    target: Annotated[int, Between(1, 100_000)] | None = None
    """Wanted average per replica; default 70 % of maxSequences (InFlight), 5 (Waiting), 80 (KVCacheUsage)."""

    provider: Literal["HPA"] = "HPA"
    """What does the scaling."""

    behavior: Passthrough = Field(default_factory=dict)
    """Overrides of the HorizontalPodAutoscaler's `behavior`."""


class Cache(ApiObject):
    """Where the model's files are kept."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.claimName == '' || "
            "(self.size == 'auto' && !has(self.storageClassName) && self.reclaimPolicy == 'Retain')",
            "claimName names a claim that exists: size, storageClassName and reclaimPolicy belong to claims that the "
            "operator makes",
            lambda s: not s.claim_name or s.makes_no_claim,
        ),
        Rule(
            "!self.ephemeral || (self.claimName == '' && self.size == 'auto' && !has(self.storageClassName) && "
            "self.reclaimPolicy == 'Retain' && self.accessMode == 'ReadWriteMany' && self.preload)",
            "an ephemeral cache has no claim: leave claimName, size, storageClassName, accessMode, reclaimPolicy and "
            "preload unset",
            lambda s: (
                not s.ephemeral
                or (not s.claim_name and s.makes_no_claim and s.access_mode == "ReadWriteMany" and s.preload)
            ),
        ),
    )

    size: QuantityOrAuto = "auto"
    """Size of the claim, or auto: the model's files and a tenth, and room for compiled kernels."""

    storage_class_name: OptionalObjectName | None = None
    """Storage class of the claim; unset: the cluster's default."""

    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteMany serves all replicas; ReadWriteOnce holds one node's."""

    reclaim_policy: Literal["Retain", "Delete"] = "Retain"
    """Whether the claim outlives the resource."""

    claim_name: OptionalObjectName = ""
    """A claim that exists already."""

    ephemeral: Bool = False
    """No claim: every pod downloads into a volume of its own."""

    preload: Bool = True
    """Download in a Job, once, before a server starts; otherwise the first server downloads."""

    @property
    def makes_no_claim(self) -> bool:
        """Whether no field is set that only a claim made by the operator can have."""
        return self.size == "auto" and self.storage_class_name is None and self.reclaim_policy == "Retain"


class Service(ApiObject):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "LoadBalancer", "NodePort"] = "ClusterIP"
    """Type of the Service."""

    port: Port = 80
    """Port of the Service; the server itself listens on 8000."""

    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        Field(max_length=32, default_factory=dict),
        BeforeValidator(without_nulls),
    ]
    """Annotations of the Service, for load balancers."""


class ApiKeyRef(SecretKeyRef):
    """The Secret that holds the API key."""

    key: SecretKey = "api-key"
    """Key inside the Secret."""


class Auth(ApiObject):
    """Who may use the API."""

    api_key_secret_ref: ApiKeyRef
    """Secret with the API key; requests to /v1 without it get 401."""


class Monitoring(ApiObject):
    """Objects of the Prometheus operator and Grafana."""

    pod_monitor: Bool = False
    """A PodMonitor that scrapes /metrics of every replica."""

    rules: Bool = False
    """A PrometheusRule with alerts."""

    dashboard: Bool = False
    """A ConfigMap with a Grafana dashboard (label grafana_dashboard)."""


class Rollout(ApiObject):
    """How a change reaches the replicas."""

    spare_gpu: Bool = Field(default=False, alias="spareGPU")
    """Whether GPUs for one more replica are free: then a new replica starts before an old one stops."""


class Lifecycle(ApiObject):
    """How long starting and stopping may take."""

    startup_timeout_seconds: Annotated[int, Between(60, 86_400)] = 1800
    """Time to load the model before the pod is restarted."""

    drain_seconds: Annotated[int, Between(0, 3600)] = 60
    """Time for requests in flight to finish when a pod stops."""

    pre_stop_seconds: Annotated[int, Between(0, 300)] = 15
    """Time for load balancers to forget a pod before it stops accepting."""


class NetworkPolicy(ApiObject):
    """Who may reach port 8000."""

    from_: Annotated[tuple[Passthrough, ...], Field(max_length=32, alias="from")] = ()
    """Peers, as in a NetworkPolicy's ingress rule; none: every pod of the namespace."""


class Spec(ApiObject):
    """What a VLLMDeployment asks for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.autoscaling) || self.replicas == 1",
            "replicas and autoscaling exclude each other: remove replicas, the autoscaler decides",
            lambda s: s.autoscaling is None or s.replicas == 1,
        ),
        Rule(
            "self.cache.ephemeral || self.cache.accessMode != 'ReadWriteOnce' || "
            "(has(self.autoscaling) ? self.autoscaling.maxReplicas == 1 : self.replicas <= 1)",
            "a ReadWriteOnce cache holds replicas of one node only: use one replica, accessMode ReadWriteMany, or an "
            "ephemeral cache",
            lambda s: s.cache.ephemeral or s.cache.access_mode != "ReadWriteOnce" or s.most_replicas <= 1,
        ),
        Rule(
            "self.model.source.startsWith('hf://') || (self.cache.claimName == '' && self.cache.size == 'auto' && "
            "!has(self.cache.storageClassName) && self.cache.accessMode == 'ReadWriteMany' && "
            "self.cache.reclaimPolicy == 'Retain' && !self.cache.ephemeral && self.cache.preload)",
            "the cache holds what is downloaded from an hf:// source: leave cache unset for any other",
            lambda s: s.model.source.startswith("hf://") or s.cache == Cache(),
        ),
        Rule(
            "self.gpu.count != 0 || "
            "([self.parallelism.tensor, self.parallelism.pipeline, self.parallelism.nodes]"
            ".all(size, size == 'auto' || size == 1) && !self.parallelism.expert)",
            "the CPU backend (gpu.count 0) runs in one process: leave parallelism unset",
            lambda s: s.gpu.count != 0 or s.parallelism.is_single,
        ),
        Rule(
            "self.gpu.count != 0 || (self.gpu.product == '' && !has(self.gpu.memory) && !has(self.gpu.resourceName))",
            "the CPU backend (gpu.count 0) uses no GPU: leave gpu.product, gpu.memory and gpu.resourceName unset",
            lambda s: s.gpu.count != 0 or not s.gpu.names_a_gpu,
        ),
        Rule(
            "self.gpu.count != 0 || !has(self.engine.kvOffload)",
            "the CPU backend (gpu.count 0) keeps its KV cache in the memory of the node already: set "
            "engine.kvCacheMemory instead of engine.kvOffload",
            lambda s: s.gpu.count != 0 or s.engine.kv_offload is None,
        ),
        Rule(
            "!has(self.engine.lora) || self.engine.lora.adapters.all(a, !(a.name in self.model.servedNames))",
            "an adapter needs a name that is not among model.servedNames: clients choose by it",
            lambda s: s.engine.lora is None or not {a.name for a in s.engine.lora.adapters} & set(s.model.served_names),
        ),
        Rule(
            "self.sizing.mode != 'Off' || self.gpu.count != 'auto'",
            "sizing.mode Off sizes nothing: say gpu.count",
            lambda s: s.sizing.mode != "Off" or s.gpu.count != "auto",
        ),
    )

    model: Model
    """The model and how it is loaded."""

    gpu: GPU = GPU()
    """The GPUs of one replica."""

    parallelism: Parallelism = Parallelism()
    """How one replica is spread over its GPUs."""

    sizing: Sizing = Sizing()
    """What a failed size check means."""

    engine: Engine = Engine()
    """How vLLM itself is started."""

    replicas: Annotated[int, Between(0, 1000)] = 1
    """Replicas; excluded by autoscaling."""

    autoscaling: Autoscaling | None = None
    """Replicas that follow the load."""

    cache: Cache = Cache()
    """Where the model's files are kept."""

    service: Service = Service()
    """The Service in front of the replicas."""

    auth: Auth | None = None
    """Who may use the API."""

    monitoring: Monitoring = Monitoring()
    """Objects of the Prometheus operator and Grafana."""

    rollout: Rollout = Rollout()
    """How a change reaches the replicas."""

    lifecycle: Lifecycle = Lifecycle()
    """How long starting and stopping may take."""

    network_policy: NetworkPolicy | None = None
    """Who may reach port 8000; with `auth` and without this, every pod of the namespace, and nobody else."""

    pod_template: Passthrough = Field(default_factory=dict)
    """Strategic-merge overlay (`metadata`, `spec`) for what else a server pod can have; its container is `vllm`."""

    suspend: Bool = False
    """Free the GPUs and keep everything else."""

    @property
    def most_replicas(self) -> int:
        """The most replicas that can run at once."""
        return self.autoscaling.max_replicas if self.autoscaling else self.replicas
