"""`status`: what is true of a resource."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from vllm_operator.api.base import ApiObject


class Phase(StrEnum):
    """One word for people; machines read the conditions."""

    PENDING = "Pending"
    REFUSED = "Refused"
    PRELOADING = "Preloading"
    STARTING = "Starting"
    UPDATING = "Updating"
    READY = "Ready"
    DEGRADED = "Degraded"
    IDLE = "Idle"
    SUSPENDED = "Suspended"


class ConditionType(StrEnum):
    """Every type of condition that a resource can carry."""

    ACCEPTED = "Accepted"
    MODEL_RESOLVED = "ModelResolved"
    SIZED = "Sized"
    CACHE_READY = "CacheReady"
    AVAILABLE = "Available"
    SCALING_READY = "ScalingReady"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class Condition(ApiObject):
    """One condition, as in `metav1.Condition`."""

    type: Annotated[str, Field(max_length=63)]
    """What it is about."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One word for machines."""

    message: Annotated[str, Field(max_length=4096)] = ""
    """A sentence for people."""

    last_transition_time: Timestamp
    """When `status` last changed."""

    observed_generation: int
    """Generation of the spec that it speaks of."""


class InspectionStatus(ApiObject):
    """What the inspect Job found at the source; it runs again only when the source changes."""

    source: str = ""
    """What it looked at, with the revision."""

    report: Annotated[str, Field(max_length=4096)] = ""
    """Its report as JSON: the commit, what sizing reads of config.json and the bytes of the weights, or an error."""


class ModelStatus(ApiObject):
    """The model as it was resolved."""

    name: str = ""
    """First served name."""

    commit: str = ""
    """Commit that is served: what the revision meant when the files were brought."""

    architecture: str = ""
    """Architecture class of the model."""

    weights: str = ""
    """Size of the weights."""

    max_length: int | None = None
    """Longest context in tokens."""

    inspected: InspectionStatus | None = None
    """What a Job found out about a model that no table knows."""


class Prediction(ApiObject):
    """Memory of the fullest GPU in GiB and what fits into it; low and high are the two bounds."""

    weights_gib: float | None = Field(default=None, alias="weightsGiB")
    """Weights per GPU."""

    kv_cache_gib_low: float | None = Field(default=None, alias="kvCacheGiBLow")
    """KV cache per GPU, conservative."""

    kv_cache_gib_high: float | None = Field(default=None, alias="kvCacheGiBHigh")
    """KV cache per GPU, optimistic."""

    kv_tokens_low: int | None = None
    """Tokens that fit into the KV cache, conservative."""

    kv_tokens_high: int | None = None
    """Tokens that fit into the KV cache, optimistic."""

    max_concurrency: float | None = None
    """Requests of the longest context at once, conservative."""


class Measurement(ApiObject):
    """What a running vLLM says of its KV cache (metric vllm:cache_config_info), beside what was predicted."""

    kv_tokens: int | None = None
    """Tokens that fit into the KV cache."""

    max_concurrency: float | None = None
    """Requests of the longest context at once."""

    drift_percent: float | None = None
    """Measured tokens against the middle of the predicted band, in percent."""


class SizingStatus(ApiObject):
    """The shape that was chosen and why."""

    gpu: str = ""
    """GPU product."""

    gpus_per_replica: int | None = None
    """GPUs of one replica."""

    tensor_parallel: int | None = None
    """Tensor parallel size."""

    pipeline_parallel: int | None = None
    """Pipeline parallel size."""

    nodes: int | None = None
    """Nodes of one replica."""

    verdict: str = ""
    """Fits, Tight, Estimated, Refused or Skipped."""

    explanation: Annotated[str, Field(max_length=4096)] = ""
    """The choice in words."""

    predicted: Prediction | None = None
    """What the memory model expects."""

    measured: Measurement | None = None
    """What runs, as vLLM itself reports it."""


class EngineStatus(ApiObject):
    """The engine as it is started."""

    version: str = ""
    """Version of vLLM that flags are checked against."""

    args: tuple[str, ...] = ()
    """Arguments of the server."""

    from_profile: tuple[str, ...] = ()
    """What the profile filled in because the spec leaves it unset, as `maxSequences=256`."""

    outdated: bool = False
    """Whether pods run what an earlier release rendered; the next change that concerns them renews it."""


class Status(ApiObject):
    """What is true of a resource."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""

    phase: Phase | None = None
    """One word for people."""

    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = ()
    """What holds and what does not, with reasons."""

    endpoint: str = ""
    """Base URL of the OpenAI API inside the cluster."""

    url: str = ""
    """The same without `/v1`."""

    model: ModelStatus | None = None
    """The model as it was resolved."""

    sizing: SizingStatus | None = None
    """The shape that was chosen and why."""

    engine: EngineStatus | None = None
    """The engine as it is started."""

    replicas: int | None = None
    """Pods that exist, for the scale subresource."""

    ready_replicas: int | None = None
    """Pods that serve."""

    selector: str = ""
    """Label selector of the pods, for the scale subresource."""
