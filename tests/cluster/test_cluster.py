"""The seam to the API, against a real one: applies that change nothing, and every verb as it should be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from objects import Object, claim, config_map, deployment, named, resource
from vllm_operator import kinds
from vllm_operator.cluster import Cluster, client
from vllm_operator.errors import Conflict, Gone
from vllm_operator.naming import FIELD_MANAGER, HANDOVER_MANAGER


@pytest.fixture
async def api(cluster: ClusterAccess, installed: Path) -> AsyncIterator[Cluster]:
    """The operator's client as administrator; the CRD is installed."""
    assert installed
    async with Cluster(kubeconfig=str(cluster.kubeconfig)) as api:
        yield api


def idempotent(namespace: str) -> dict[str, Object]:
    """Manifests as our templates write them, with quantities that are not in canonical form."""
    sized = deployment(namespace, replicas=0)
    limits = {"cpu": "2000m", "memory": "8192Mi", "nvidia.com/gpu": 1}
    sized["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": limits}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "one"}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    port = {"name": "http", "port": 80, "targetPort": "http"}
    return {
        "ServiceAccount": named(kinds.SERVICE_ACCOUNT, namespace, automountServiceAccountToken=False),
        "Deployment": sized,
        "Service": named(kinds.SERVICE, namespace, {"selector": {"app": "one"}, "ports": [port]}),
        "HorizontalPodAutoscaler": named(
            kinds.AUTOSCALER, namespace, {"scaleTargetRef": target, "maxReplicas": 3, "metrics": [cpu]}
        ),
        "PodDisruptionBudget": named(
            kinds.DISRUPTION_BUDGET, namespace, {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "one"}}}
        ),
        "NetworkPolicy": named(
            kinds.NETWORK_POLICY,
            namespace,
            {"podSelector": {"matchLabels": {"app": "one"}}, "policyTypes": ["Ingress"]},
        ),
        "PersistentVolumeClaim": claim(namespace, "standard", "1024Mi"),
        "ConfigMap": config_map(namespace, key="value"),
        "VLLMDeployment": resource(namespace),
    }


class TestApply:
    @pytest.mark.parametrize("kind", list(idempotent("")))
    async def test_the_same_again_changes_nothing(self, api: Cluster, namespace: str, kind: str) -> None:
        manifest = idempotent(namespace)[kind]
        await api.apply(manifest)
        # Controllers of Kubernetes write to new objects too, so it may take some rounds until all are done.
        async with asyncio.timeout(20):
            while True:
                first = (await api.apply(manifest))["metadata"]
                second = (await api.apply(manifest))["metadata"]
                if first["resourceVersion"] == second["resourceVersion"]:
                    break
        assert first["generation"] == 1 if "generation" in first else True

    @pytest.mark.parametrize("kind", list(idempotent("")))
    async def test_what_is_to_be_new_takes_no_place(self, api: Cluster, namespace: str, kind: str) -> None:
        manifest = idempotent(namespace)[kind]
        made = (await api.apply(manifest, new=True))["metadata"]
        assert (FIELD_MANAGER, "Apply") in {(one["manager"], one["operation"]) for one in made["managedFields"]}
        again = {**manifest, "metadata": {**manifest["metadata"], "annotations": {"example.com/again": "yes"}}}
        with pytest.raises(Conflict):
            await api.apply(again, new=True)
        live = await api.get_metadata(kinds.BY_NAME[manifest["apiVersion"], kind], namespace, made["name"])
        assert live
        assert "example.com/again" not in live["metadata"].get("annotations", {})
        assert (await api.apply(again))["metadata"]["uid"] == made["uid"]

    async def test_any_string_arrives_as_it_is(self, api: Cluster, namespace: str) -> None:
        strings = {
            "emoji": "\U0001f600 \U0010ffff",
            "controls": "\x7f \x85 \x9f \u2028 \ufeff \t \r\n",
            "yaml": "no: [yes] # 0123 'x' \"y\" {{ z }}",
            "backslashes": "\\ud83d\\ude00 \\n \\U0001f600",
            "accents": "Zürich, 東京",
        }
        applied = await api.apply(config_map(namespace, **strings))
        stored = await api.get(kinds.CONFIG_MAP, namespace, "one")
        assert applied["data"] == strings
        assert stored is not None
        assert stored["data"] == strings

    async def test_our_fields_are_taken_back_and_others_are_left(
        self, api: Cluster, namespace: str, kubectl: Kubectl
    ) -> None:
        manifest = deployment(namespace)
        await api.apply(manifest)
        kubectl("set", "image", "deployment/one", "server=none.test/other:v2")
        kubectl("annotate", "deployment/one", "example.com/note=mine")
        kubectl("scale", "deployment/one", "--replicas=0")
        live = await api.apply(manifest)
        assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "none.test/server:v1"
        assert live["metadata"]["annotations"]["example.com/note"] == "mine"
        assert live["spec"]["replicas"] == 0

    async def test_replicas_survive_being_handed_over(self, api: Cluster, namespace: str) -> None:
        await api.apply(deployment(namespace, replicas=3))
        parked = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one", "namespace": namespace}}
        await api.apply({**parked, "spec": {"replicas": 3}}, HANDOVER_MANAGER)
        assert (await api.apply(deployment(namespace)))["spec"]["replicas"] == 3

    async def test_a_dry_run_answers_and_leaves_nothing(self, api: Cluster, namespace: str) -> None:
        answer = await api.apply(config_map(namespace, key="value"), dry_run=True)
        assert answer["data"] == {"key": "value"}
        assert await api.get(kinds.CONFIG_MAP, namespace, "one") is None


class TestStatus:
    async def test_it_is_written_whole_and_once(self, api: Cluster, namespace: str) -> None:
        await api.apply(resource(namespace))
        first = await api.apply_status(namespace, "one", {"phase": "Pending", "replicas": 2})
        again = await api.apply_status(namespace, "one", {"phase": "Pending", "replicas": 2})
        assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
        assert first["metadata"]["generation"] == 1
        last = await api.apply_status(namespace, "one", {"phase": "Ready"})
        assert first["status"]["replicas"] == 2
        assert (last["status"]["phase"], last["status"].get("replicas")) == ("Ready", None)

    async def test_it_makes_no_resource(self, api: Cluster, namespace: str) -> None:
        with pytest.raises(Gone):
            await api.apply_status(namespace, "one", {"phase": "Ready"})


class TestRead:
    async def test_what_is_not_there(self, api: Cluster, namespace: str) -> None:
        assert await api.get(kinds.DEPLOYMENT, namespace, "one") is None
        assert await api.get(kinds.POD_MONITOR, namespace, "one") is None
        assert await api.get_metadata(kinds.DEPLOYMENT, namespace, "one") is None
        assert await api.list(kinds.DEPLOYMENT, namespace) == []
        assert await api.names(kinds.DEPLOYMENT, "app=one", namespace) == set()
        assert await api.list(kinds.POD_MONITOR) == []
        assert await api.names(kinds.POD_MONITOR) == set()

    async def test_lists_come_in_pages_and_in_full(
        self, api: Cluster, namespace: str, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "_PAGE", 3)
        maps = [config_map(namespace, number=str(number)) for number in range(10)]
        for number, one in enumerate(maps):
            one["metadata"] |= {"name": f"map-{number}", "labels": {"even": str(number % 2 == 0)}}
        kubectl.apply(maps)
        names = {f"map-{number}" for number in range(0, 10, 2)}
        found = await api.list(kinds.CONFIG_MAP, namespace, "even=True")
        assert {one["metadata"]["name"] for one in found} == names
        assert {(one["apiVersion"], one["kind"]) for one in found} == {("v1", "ConfigMap")}
        everywhere = await api.names(kinds.CONFIG_MAP, "even=True")
        assert {name for where, name in everywhere if where == namespace} == names
        assert await api.names(kinds.CONFIG_MAP, "even=True", namespace) == {(namespace, name) for name in names}
        assert all(not where for where, _ in await api.names(kinds.NODE))

    async def test_metadata_only(self, api: Cluster, namespace: str) -> None:
        await api.apply(config_map(namespace, key="value"))
        found = await api.get_metadata(kinds.CONFIG_MAP, namespace, "one")
        assert found is not None
        assert found["metadata"]["labels"] == {"app": "one"}
        assert "data" not in found

    async def test_which_kinds_are_served(self, api: Cluster) -> None:
        known = {kind: await api.serves(kind) for kind in (*kinds.CHILDREN, kinds.RESOURCE, kinds.NODE, kinds.EVENT)}
        assert {kind for kind, served in known.items() if not served} == {kinds.POD_MONITOR, kinds.PROMETHEUS_RULE}

    async def test_nodes_belong_to_no_namespace(self, api: Cluster) -> None:
        assert await api.list(kinds.NODE)


class TestDelete:
    async def test_that_very_object_and_only_once(self, api: Cluster, namespace: str) -> None:
        uid = (await api.apply(config_map(namespace)))["metadata"]["uid"]
        assert not await api.delete(kinds.CONFIG_MAP, namespace, "one", "another-uid")
        assert await api.get(kinds.CONFIG_MAP, namespace, "one") is not None
        assert await api.delete(kinds.CONFIG_MAP, namespace, "one", uid)
        assert not await api.delete(kinds.CONFIG_MAP, namespace, "one", uid)

    async def test_dependents_go_in_the_background(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        uid = (await api.apply(deployment(namespace)))["metadata"]["uid"]
        wait_for(lambda: kubectl.items("pods"), message="a pod")
        assert await api.delete(kinds.DEPLOYMENT, namespace, "one", uid)
        assert await api.get(kinds.DEPLOYMENT, namespace, "one") is None
        wait_for(lambda: not kubectl.items("replicasets,pods"), message="the garbage collector is done")


class TestEvents:
    async def test_create_meet_again_and_expire(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        about = {"apiVersion": "v1", "kind": "ConfigMap", "name": "one", "namespace": namespace}
        event = named(kinds.EVENT, namespace, involvedObject=about, type="Normal", reason="Test", message="once")
        assert await api.create_event(namespace, event)
        assert not await api.create_event(namespace, event)
        patched = await api.patch_event(namespace, "one", {"count": 2})
        assert patched is not None
        assert (patched["count"], patched["message"]) == (2, "once")
        kubectl("delete", "event", "one")
        assert await api.patch_event(namespace, "one", {"count": 3}) is None
