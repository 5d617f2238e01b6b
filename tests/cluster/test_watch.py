"""What the watch tells, and that it leaves no trace."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventloop import sockets_closed
from localcluster.access import ClusterAccess
from localcluster.audit import AuditEvent
from localcluster.cluster import Cluster as LocalCluster
from localcluster.fixtures import NamespaceFactory
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from objects import Object, claim, config_map, deployment, named, resource
from vllm_operator import kinds, watch
from vllm_operator.cluster import Cluster
from vllm_operator.kinds import CHILDREN, Kind
from vllm_operator.naming import MANAGED_BY
from vllm_operator.pacing import ErrorDelays
from vllm_operator.scope import Scope

Sighting = tuple[str, str | None, str]  # kind, event, name
CORE = tuple(kind for kind in CHILDREN if not kind.optional)


class Diary:
    """Notes what it is told of a namespace, and of nodes, and lets a test wait for it."""

    def __init__(self, namespace: str) -> None:
        self._namespaces = {namespace, None}
        self.elsewhere: set[str | None] = set()
        self.seen: list[Sighting] = []
        self.bodies: list[Object] = []
        self.listed = 0  # how often it was told that everything was
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def resource_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        self._note("VLLMDeployment", event, body)

    def child_seen(self, kind: Kind, event: str | None, body: Mapping[str, Any]) -> None:
        assert body["kind"] == kind.kind
        assert body["apiVersion"] == kind.api_version
        self._note(kind.kind, event, body)

    def pod_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        self._note("Pod", event, body)

    def node_seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        self._note("Node", event, body)

    def all_listed(self) -> None:
        self.listed += 1
        self._tell_soon()

    def _note(self, kind: str, event: str | None, body: Mapping[str, Any]) -> None:
        namespace = body["metadata"].get("namespace")
        if namespace not in self._namespaces:
            self.elsewhere.add(namespace)
            return
        self.seen.append((kind, event, body["metadata"]["name"]))
        self.bodies.append(dict(body))
        self._tell_soon()

    def _tell_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def sees(self, *sightings: Sighting) -> None:
        """Wait until all of these have been seen."""
        try:
            async with asyncio.timeout(20), self._news:
                await self._news.wait_for(lambda: set(sightings) <= set(self.seen))
        except TimeoutError:
            pytest.fail(f"not seen: {set(sightings) - set(self.seen)}; seen: {self.seen}")

    async def finds(self, *names: tuple[str, str]) -> None:
        """Wait until these (kind, name) were listed, or added after the listing."""
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(
                lambda: set(names) <= {(kind, name) for kind, event, name in self.seen if event in {None, "ADDED"}}
            )

    async def finds_all_listed(self) -> None:
        """Wait until it was told that everything was listed."""
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self.listed)


@asynccontextmanager
async def watching(kubeconfig: Path, namespace: str, *, everywhere: bool = True) -> AsyncIterator[Diary]:
    """A watch that runs meanwhile and must end cleanly; the diary is of `namespace` either way."""
    diary, stop, ready = Diary(namespace), asyncio.Event(), asyncio.Event()
    scope = Scope(() if everywhere else (namespace,), CORE)
    async with Cluster(kubeconfig=str(kubeconfig)) as cluster:
        running = asyncio.create_task(watch.watch(diary, cluster, scope, stop, ready))
        await ready.wait()
        await diary.finds(("Node", "cpu-0"))
        yield diary
        stop.set()
        async with asyncio.timeout(10):
            await running
    await sockets_closed()


def labelled(manifest: Object, name: str = "one") -> Object:
    manifest["metadata"]["labels"] = {"app": "one", MANAGED_BY: "vllm-operator"}
    manifest["metadata"]["name"] = name
    return manifest


async def test_a_life_is_told_from_the_listing_to_the_end(installed: Path, namespace: str, kubectl: Kubectl) -> None:
    kubectl.apply(resource(namespace))
    async with watching(installed, namespace) as diary:
        await diary.sees(("VLLMDeployment", None, "one"))
        kubectl("patch", "vd", "one", "--type=merge", '--patch={"spec":{"replicas":3}}')
        await diary.sees(("VLLMDeployment", "MODIFIED", "one"))
        kubectl("delete", "vd", "one")
        await diary.sees(("VLLMDeployment", "DELETED", "one"))
        kubectl.apply(resource(namespace))
        await diary.sees(("VLLMDeployment", "ADDED", "one"))


@pytest.mark.parametrize("everywhere", [True, False], ids=["clusterwide", "namespaced"])
async def test_it_is_told_once_when_all_kinds_were_listed(
    installed: Path, namespace: str, kubectl: Kubectl, *, everywhere: bool
) -> None:
    kubectl.apply(resource(namespace))
    kubectl.apply([labelled(config_map(namespace, key="value")), labelled(claim(namespace, "standard"))])
    async with watching(installed, namespace, everywhere=everywhere) as diary:
        await diary.finds_all_listed()
        await diary.sees(*((kind, None, "one") for kind in ("VLLMDeployment", "ConfigMap", "PersistentVolumeClaim")))
        kubectl.apply(labelled(config_map(namespace, key="value"), "two"))
        await diary.sees(("ConfigMap", "ADDED", "two"))
        assert diary.listed == 1


async def test_children_of_every_kind_and_pods_and_nodes(installed: Path, namespace: str, kubectl: Kubectl) -> None:
    pod = deployment(namespace)["spec"]["template"]
    target = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "one"}, "maxReplicas": 2}
    manifests = {
        kinds.SERVICE_ACCOUNT: named(kinds.SERVICE_ACCOUNT, namespace),
        kinds.CLAIM: claim(namespace, "standard"),
        kinds.NETWORK_POLICY: named(kinds.NETWORK_POLICY, namespace, {"podSelector": {}}),
        kinds.JOB: named(
            kinds.JOB, namespace, {"template": {"spec": {**pod["spec"], "restartPolicy": "Never"}}, "suspend": True}
        ),
        kinds.SERVICE: named(kinds.SERVICE, namespace, {"ports": [{"port": 80}]}),
        kinds.DEPLOYMENT: deployment(namespace, replicas=0),
        kinds.AUTOSCALER: named(kinds.AUTOSCALER, namespace, target),
        kinds.DISRUPTION_BUDGET: named(kinds.DISRUPTION_BUDGET, namespace, {"maxUnavailable": 1}),
        kinds.CONFIG_MAP: config_map(namespace, key="value"),
    }
    assert manifests.keys() == set(CORE)
    node = "cpu-0"
    async with watching(installed, namespace) as diary:
        kubectl.apply([labelled(one) for one in manifests.values()])
        kubectl.apply(labelled(named(kinds.POD, namespace, pod["spec"])))
        kinds_seen = [*(kind.kind for kind in manifests), "Pod"]
        await diary.finds(*((kind, "one") for kind in kinds_seen))
        kubectl("label", "node", node, "example.com/test=1", "--overwrite")
        kubectl("label", "node", node, "example.com/test-")
        await diary.sees(("Node", "MODIFIED", node))


async def test_what_is_not_ours_is_not_even_sent(installed: Path, namespace: str, kubectl: Kubectl) -> None:
    async with watching(installed, namespace) as diary:
        kubectl.apply([config_map(namespace), deployment(namespace)])
        kubectl.apply(labelled(config_map(namespace), "ours"))
        await diary.finds(("ConfigMap", "ours"))
    assert {(kind, name) for kind, _, name in diary.seen if kind != "Node"} == {("ConfigMap", "ours")}


async def test_one_namespace_only(
    installed: Path, namespace: str, namespace_factory: NamespaceFactory, kubectl: Kubectl
) -> None:
    other = namespace_factory({})
    async with watching(installed, namespace, everywhere=False) as diary:
        kubectl.in_namespace(other).apply([resource(other), labelled(config_map(other))])
        kubectl.apply([resource(namespace), labelled(config_map(namespace))])
        await diary.finds(("VLLMDeployment", "one"), ("ConfigMap", "one"))
    assert diary.elsewhere == set()


@dataclass(frozen=True, slots=True)
class Account:
    """A service account with the operator's rights of which nobody else makes use."""

    user: str
    kubeconfig: Path


@pytest.fixture
def account(installed: Path, cluster: ClusterAccess, namespace: str, kubectl: Kubectl) -> Iterator[Account]:
    """An account of this test's own: the operator of the run may be alive and write as its own user meanwhile."""
    assert installed.exists()
    user, binding = f"system:serviceaccount:{namespace}:watcher", f"clusterrolebinding/{namespace}"
    kubectl("create", "serviceaccount", "watcher")
    kubectl("create", *binding.split("/"), "--clusterrole=vllm-operator", f"--serviceaccount={namespace}:watcher")

    def may_write() -> bool:
        question = ("patch", "vllmdeployments.vllm-operator.dev", "--subresource=status", f"--as={user}")
        return kubectl("auth", "can-i", *question, check=False).returncode == 0

    wait_for(may_write, message=f"{user} may write, so that it would be seen")
    yield Account(user, cluster.kubeconfig_for("watcher", namespace))
    kubectl("delete", binding)


def requests(local_cluster: LocalCluster, kubectl: Kubectl, account: Account, mark: int) -> list[AuditEvent]:
    """Every request of an account since a mark; once the last of them is in the log, the earlier ones are, too."""
    last = "the-last-request"
    kubectl.with_kubeconfig(account.kubeconfig)("get", "vd", last, "--ignore-not-found")

    def logged() -> list[AuditEvent]:
        events = list(local_cluster.audit_events(account.user, mark))
        assert last in {event.name for event in events}
        return events

    return wait_for(logged, message="the audit log is written")


async def test_it_writes_nothing(
    local_cluster: LocalCluster, account: Account, namespace: str, kubectl: Kubectl
) -> None:
    mark = local_cluster.audit_mark()
    async with watching(account.kubeconfig, namespace) as diary:
        kubectl.apply(resource(namespace))
        await diary.finds(("VLLMDeployment", "one"))
        kubectl("patch", "vd", "one", "--type=merge", '--patch={"spec":{"replicas":3}}')
        await diary.sees(("VLLMDeployment", "MODIFIED", "one"))
        kubectl("delete", "vd", "one")
        await diary.sees(("VLLMDeployment", "DELETED", "one"))
    events = requests(local_cluster, kubectl, account, mark)
    other = [event for event in events if event.verb not in {"get", "list", "watch"}]
    assert [f"{one.verb} {one.uri}: {one.code}, {one.user_agent}, {one.received}" for one in other] == []
    watched = {event.resource for event in events if event.verb == "watch"}
    assert "vllmdeployments" in watched
    assert watched <= {kind.plural for kind in (*CORE, kinds.RESOURCE, kinds.POD, kinds.NODE)}
    metadata = [body["metadata"] for body in diary.bodies if body["kind"] == "VLLMDeployment"]
    assert all("finalizers" not in one for one in metadata)
    assert all(set(one["annotations"]) <= {"kubectl.kubernetes.io/last-applied-configuration"} for one in metadata)


async def test_tasks_of_others_survive_its_end(installed: Path, namespace: str) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    earlier = asyncio.create_task(forever())
    async with watching(installed, namespace):
        later = asyncio.create_task(forever())
    assert not earlier.done()
    assert not later.done()
    earlier.cancel()
    later.cancel()


def test_failed_requests_are_tried_for_about_ten_minutes_and_not_in_step() -> None:
    now = 0.0
    delays = ErrorDelays(lambda: now)

    def tried(attempt_seconds: float) -> tuple[list[float], float]:
        nonlocal now
        began, series = now, []
        for delay in delays:
            series.append(delay)
            now += delay + attempt_seconds
        return series, now - began

    (first, at_once), (second, _), (_, hung) = tried(0.0), tried(0.0), tried(60.0)
    assert first != second
    assert all(600 <= seconds < 700 for seconds in (at_once, hung))
    assert max(first) <= 20
