"""What the operator counts of itself, as Prometheus reads it. The one module that knows prometheus_client."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any, Literal

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vllm_operator.kinds import Kind
from vllm_operator.naming import Key
from vllm_operator.status.reading import ready_of

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# How a pass ends; see `app.workers`.
RESULTS = ("written", "unchanged", "blocked", "conflict", "failed", "fault", "gone")

# Percent by which the measured KV cache is off the prediction before a resource gets a series of its own, and how many
# get one: those that are off most.
DRIFT_PERCENT = 10.0
_MOST_DRIFTS = 100
# Pairs of phase and reason; both come from tables, and a metric must stay small even if one day they do not.
_MOST_STATES = 100
_OTHER = ("Other", "Other")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without the prefix, what it says, its labels, and the bounds of a histogram's buckets."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """As Prometheus stores it; a histogram appends `_bucket`, `_sum` and `_count`."""
        return f"vllm_operator_{self.name}"


QUEUE_DEPTH = Metric("workqueue_depth", "gauge", "Resources that are due and wait for a worker.")
QUEUE_AGE = Metric("workqueue_oldest_age_seconds", "gauge", "How long the first of them has been due.")
RUNNING = Metric("workqueue_running", "gauge", "Passes under way.")
LONGEST_RUN = Metric("workqueue_longest_run_seconds", "gauge", "How long the longest of them has been running.")
RETRIES = Metric("workqueue_retries_total", "counter", "Passes that ended so that another attempt was scheduled.")
PASSES = Metric(
    "reconcile_duration_seconds",
    "histogram",
    f"Passes over resources, by how they ended: {', '.join(RESULTS)}.",
    ("result",),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
REQUESTS = Metric(
    "api_requests_total",
    "counter",
    "Requests to the API server, by verb and resource as RBAC names them, and HTTP code; `error`: no answer came. "
    "A watch counts once, when it begins or fails to.",
    ("verb", "resource", "code"),
)
REQUEST_SECONDS = Metric(
    "api_request_duration_seconds",
    "histogram",
    "How long they took, by verb.",
    ("verb",),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
APPLIES = Metric(
    "applies_total",
    "counter",
    "Server-side applies of children, by kind; `unchanged`: the object was already what was applied.",
    ("kind", "result"),
)
EVENTS = Metric("watch_events_total", "counter", "Objects that the watch reported, by kind.", ("kind",))
LEADER = Metric("is_leader", "gauge", "1 while this process works on resources, 0 while another one does or may.")
LAG = Metric("event_loop_lag_seconds", "gauge", "The worst delay of the event loop in the last minute.")
LAGS = Metric(
    "event_loop_delay_seconds",
    "histogram",
    "Delays of the event loop, looked at twice a second.",
    (),
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
RESOURCES = Metric(
    "resources",
    "gauge",
    "Resources, by phase and by the reason of their Ready condition, as the last pass over each found them.",
    ("phase", "reason"),
)
DRIFT = Metric(
    "sizing_drift_percent",
    "gauge",
    "Measured KV cache against the middle of the predicted band (`status.sizing.measured.driftPercent`), for the "
    f"{_MOST_DRIFTS} resources that are off most, from {DRIFT_PERCENT:g} percent.",
    ("vllmdeployment",),  # namespace/name; a label `namespace` would be taken for that of the scraped pod
)
BUILD = Metric("build_info", "gauge", "1, with the versions of the operator and of Python.", ("version", "python"))

METRICS = (
    QUEUE_DEPTH,
    QUEUE_AGE,
    RUNNING,
    LONGEST_RUN,
    RETRIES,
    PASSES,
    REQUESTS,
    REQUEST_SECONDS,
    APPLIES,
    EVENTS,
    LEADER,
    LAG,
    LAGS,
    RESOURCES,
    DRIFT,
    BUILD,
)


def _version() -> str:
    try:
        return version("vllm-operator")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


class Telemetry(Collector):
    """Counts what it is told and answers with a page of metrics. A registry of its own: nothing is shared.

    All methods belong to one event loop and take microseconds.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series per series, for a date that the process tells anyway
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._retries = self._counter(RETRIES)
        self._passes = self._histogram(PASSES)
        self._requests = self._counter(REQUESTS)
        self._request_seconds = self._histogram(REQUEST_SECONDS)
        self._applies = self._counter(APPLIES)
        self._events = self._counter(EVENTS)
        self._lags = self._histogram(LAGS)
        self._sources: dict[Metric, Callable[[], float]] = {}
        self._states: dict[Key, tuple[str, str]] = {}
        self._drifts: dict[Key, float] = {}
        self._build = (_version(), python_version())
        for result in RESULTS:  # a rate needs a nought to start from
            self._passes.labels(result)
        self._registry.register(self)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.full_name, metric.help, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(
            metric.full_name, metric.help, metric.labels, registry=self._registry, buckets=(*metric.buckets,)
        )

    def read(self, metric: Metric, source: Callable[[], float]) -> None:
        """Ask `source` for a gauge without labels whenever a page is wanted."""
        self._sources[metric] = source

    # --- what it is told

    def called(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """A request to the API server was answered, or not (`error`)."""
        self._requests.labels(verb, resource, code).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def passed(self, result: str, seconds: float, *, retried: bool) -> None:
        """A pass ended in one of RESULTS."""
        self._passes.labels(result).observe(seconds)
        if retried:
            self._retries.inc()

    def applied(self, kind: Kind, *, changed: bool) -> None:
        """A child was applied."""
        self._applies.labels(kind.kind, "changed" if changed else "unchanged").inc()

    def saw(self, kind: Kind) -> None:
        """The watch reported an object."""
        self._events.labels(kind.kind).inc()

    def lagged(self, seconds: float) -> None:
        """The event loop was that late."""
        self._lags.observe(seconds)

    def stands(self, key: Key, status: Mapping[str, Any]) -> None:
        """What is true of a resource, as its status says."""
        self._states[key] = (status.get("phase", ""), ready_of(status).get("reason", ""))
        drift = ((status.get("sizing") or {}).get("measured") or {}).get("driftPercent") or 0.0
        if abs(drift) >= DRIFT_PERCENT:
            self._drifts[key] = drift
        else:
            self._drifts.pop(key, None)

    def forget(self, key: Key) -> None:
        """A resource is gone."""
        self._states.pop(key, None)
        self._drifts.pop(key, None)

    # --- what it answers

    def page(self) -> bytes:
        """All metrics, in the format of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as they are at this moment."""
        for metric, source in self._sources.items():
            yield _gauge(metric, [((), source())])
        yield _gauge(BUILD, [(self._build, 1)])
        yield _gauge(RESOURCES, _bounded(Tally(self._states.values())).items())
        worst = sorted(self._drifts.items(), key=lambda item: -abs(item[1]))[:_MOST_DRIFTS]
        yield _gauge(DRIFT, [((str(key),), drift) for key, drift in worst])


def _gauge(metric: Metric, samples: Any) -> GaugeMetricFamily:  # noqa: ANN401
    family = GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _bounded(states: Tally[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
    """The most frequent ones by name, all others as one."""
    if len(states) <= _MOST_STATES:
        return states
    kept = dict(states.most_common(_MOST_STATES - 1))
    return {**kept, _OTHER: states.total() - sum(kept.values())}
