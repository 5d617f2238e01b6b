"""What a plan is made from and what it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_operator.api.parse import Resource
from vllm_operator.engine.profiles import Settings
from vllm_operator.errors import Problem
from vllm_operator.kinds import Kind
from vllm_operator.sizing.facts import ModelFacts
from vllm_operator.sizing.tables import EMPTY, Tables
from vllm_operator.sizing.types import Offer, ParameterCount, Sizing


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the operator's configuration contributes."""

    engine_image: str = "vllm/vllm-openai:v0.32.0"
    cpu_image: str = "vllm/vllm-openai-cpu:v0.32.0"
    fetch_image: str = "vllm-operator:0.1.0"  # the operator's own: it runs `vllm-operator fetch` in Jobs
    tables: Tables = EMPTY  # GPUs and models that the shipped tables do not know, or weigh differently
    renew_pods: bool = False  # whether pods follow this release's own templates and defaults at once


@dataclass(frozen=True, slots=True)
class LiveClaim:
    """What a claim cannot change any more: most of its spec is immutable once it exists."""

    size: str
    storage_class: str | None
    access_mode: str
    bound: bool
    owns_class: bool = False  # whether the operator itself set the class, and not the cluster's default
    holds: str = ""  # digest of the files that it is known to hold, as `cache.model_digest` says it
    created: str = ""  # RFC 3339


@dataclass(frozen=True, slots=True)
class LiveWorkload:
    """What the plan must know of a Deployment that runs."""

    replicas: int
    owns_replicas: bool  # whether `spec.replicas` is held by the operator's own field manager
    model_digest: str
    commit: str = ""  # that its pods are started with
    image: str = ""  # of its servers
    claim: str = ""  # that they keep downloaded files in
    inputs: str = ""  # what its pod template was rendered from, as `inputs.pod_inputs` says it


NO_REPORT = "NoReport"  # why nothing is known of a source: the Job that looked said nothing that can be read


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a Job of ours found out about a source, or why it could not: a reason and a sentence."""

    source: str  # what it looked at, as `engine.source.identity` spells it
    text: str = ""  # its report as it was written
    commit: str = ""
    config: Mapping[str, Any] | None = None  # of config.json, what sizing reads
    weight_bytes: int | None = None
    reason: str = ""
    message: str = ""
    trying: bool = False  # it failed and will be tried again
    recorded: bool = False  # the status speaks of the source already

    @property
    def settled(self) -> bool:
        """Whether no Job need look any more: that one left no report is nothing to go by for ever."""
        return self.recorded and self.reason != NO_REPORT


@dataclass(frozen=True, slots=True)
class Facts:
    """What is observed before a plan is made; empty when a plan is made offline."""

    offers: tuple[Offer, ...] | None = None  # None: no cluster to ask, take the GPU table's word
    claim: LiveClaim | None = None
    modes: tuple[str, ...] = ()  # access modes of a user's own claim that servers mount, where it was looked at
    workload: LiveWorkload | None = None
    previous_product: str = ""
    inspects: bool = False  # whether there is a cluster in which a Job can look at the source
    inspection: Inspection | None = None
    commit: str = ""  # of the files that the preload Job brought


@dataclass(frozen=True, slots=True)
class Child:
    """One object to apply: which template, with which values."""

    kind: Kind
    name: str
    template: str
    values: Mapping[str, Any]
    component: str = "server"
    owned: bool = True  # carries the controller reference, so that it goes with the resource
    annotations: Mapping[str, str] | None = None
    overlay: Mapping[str, Any] | None = None  # strategic merge over `spec.template`


@dataclass(frozen=True, slots=True)
class Warn:
    """Something a user should notice although it is carried out."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """The model as sizing sees it; `facts` is None when nobody knows its architecture."""

    name: str
    revision: str
    facts: ModelFacts | ParameterCount | None
    known_from: str  # in words: the catalogue, spec.model.facts, the name
    guessed: bool = False  # from the name, or not at all: whoever can look at the source knows better
    draft: ModelFacts | ParameterCount | None = None  # the model that drafts, where one does and is known


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a plan holds only a Job that looks at the model: a reason, a sentence, and whether waiting may help."""

    reason: str
    message: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is applied: the condition that is False, its reason, and what is wrong."""

    condition: str
    reason: str
    problems: tuple[Problem, ...]

    @property
    def message(self) -> str:
        """All problems, as a condition shows them."""
        return "; ".join(str(problem) for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that should exist for a resource, or why it should not."""

    resource: Resource
    settings: Settings
    engine_version: str
    model: ResolvedModel | None = None
    sizing: Sizing | None = None
    arguments: tuple[str, ...] = ()
    children: tuple[Child, ...] = ()
    refusal: Refusal | None = None
    waiting: Waiting | None = None  # for what a Job reports; what runs meanwhile stays as it is
    inspection: Inspection | None = None
    commit: str = ""  # that is served, as far as it is known
    warnings: tuple[Warn, ...] = ()
    storage_problem: str = ""  # a change of the claim that Kubernetes does not allow
    held: bool = False  # the cache is known to hold the files: servers need not wait for the Job that looks again
    weights_gib: float | None = None
    handover_replicas: int | None = None  # hold this many under another manager before letting go of them
