"""The seam to the API, against a real one: applies that change nothing, and every refusal as the error it means."""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from vllm_operator import kinds
from vllm_operator.cluster import Cluster, client
from vllm_operator.errors import Blocked, Conflict, Gone, Transient, UsageError
from vllm_operator.naming import HANDOVER_MANAGER

Object = dict[str, Any]


@pytest.fixture
async def api(cluster: ClusterAccess, installed: Path) -> AsyncIterator[Cluster]:
    """The operator's client as administrator; the CRD is installed."""
    assert installed
    async with Cluster(kubeconfig=str(cluster.kubeconfig)) as api:
        yield api


@pytest.fixture
async def account(installed: Path) -> AsyncIterator[Cluster]:
    """The operator's client with the rights of the operator."""
    async with Cluster(kubeconfig=str(installed)) as api:
        yield api


def named(kind: kinds.Kind, namespace: str, spec: Object | None = None, **fields: object) -> Object:
    body: Object = {"apiVersion": kind.api_version, "kind": kind.kind, **fields}
    body["metadata"] = {"name": "one", "namespace": namespace, "labels": {"app": "one"}}
    return body if spec is None else {**body, "spec": spec}


def deployment(namespace: str, **spec: object) -> Object:
    template = {
        "metadata": {"labels": {"app": "one"}},
        "spec": {"containers": [{"name": "server", "image": "none.test/server:v1"}]},
    }
    return named(
        kinds.DEPLOYMENT, namespace, {"selector": {"matchLabels": {"app": "one"}}, "template": template, **spec}
    )


def claim(namespace: str, storage_class: str, size: str = "1Gi") -> Object:
    resources = {"requests": {"storage": size}}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, "resources": resources}
    return named(kinds.CLAIM, namespace, spec)


def config_map(namespace: str, **data: str) -> Object:
    return named(kinds.CONFIG_MAP, namespace, data=data)


def resource(namespace: str) -> Object:
    return named(kinds.RESOURCE, namespace, {"model": {"source": "hf://Qwen/Qwen3-8B"}})


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
        assert await api.list_metadata(kinds.DEPLOYMENT, "app=one", namespace) == []
        assert await api.list(kinds.POD_MONITOR) == []
        assert await api.list_metadata(kinds.POD_MONITOR) == []

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
        everywhere = await api.list_metadata(kinds.CONFIG_MAP, "even=True")
        assert {one["metadata"]["name"] for one in everywhere if one["metadata"]["namespace"] == namespace} == names
        assert all("data" not in one for one in everywhere)

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


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    """Reason and message of the Blocked that a call raises."""
    with pytest.raises(Blocked) as caught:
        await call
    return caught.value.reason, str(caught.value)


async def eventually(reason: str, attempt: Callable[[], Awaitable[object]]) -> str:
    """Try until the API server refuses for that reason, since its admission plugins learn by watching; the message."""
    async with asyncio.timeout(20):
        while True:
            try:
                await attempt()
            except Blocked as error:
                if error.reason == reason:
                    return str(error)
            except Transient:
                pass


@pytest.fixture
def dying(namespace: str, kubectl: Kubectl) -> Iterator[str]:
    """A namespace that is being deleted and cannot finish."""
    stuck = config_map(namespace)
    stuck["metadata"] |= {"name": "stuck", "finalizers": ["example.com/wait"]}
    kubectl.apply(stuck)
    kubectl("delete", "namespace", namespace, "--wait=false")
    yield namespace
    kubectl("patch", "configmap", "stuck", "--type=merge", '--patch={"metadata":{"finalizers":null}}')


@pytest.fixture
def broken_webhook(namespace: str, kubectl: Kubectl) -> Iterator[None]:
    """An admission webhook of somebody else, which fails closed and does not answer."""
    hook = {
        "name": "broken.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    kubectl.apply({**kind, "metadata": {"name": namespace}, "webhooks": [hook]})
    yield
    kubectl("delete", "validatingwebhookconfiguration", namespace)


@pytest.fixture
def policy(namespace: str, kubectl: Kubectl) -> Iterator[None]:
    """An admission policy of somebody else, which refuses every ConfigMap."""
    group = "admissionregistration.k8s.io/v1"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
    spec = {
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "false", "message": "no maps here"}],
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "policyName": namespace,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": selector},
    }
    metadata = {"name": namespace}
    kubectl.apply({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": spec})
    kubectl.apply(
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding}
    )
    yield
    kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", namespace)


class TestRefusals:
    async def test_an_unknown_kind(self, api: Cluster, namespace: str) -> None:
        reason, message = await refused(api.apply(named(kinds.POD_MONITOR, namespace, {})))
        assert reason == "CRDNotInstalled"
        assert "monitoring.coreos.com/v1" in message

    async def test_a_namespace_that_is_not_there(self, api: Cluster) -> None:
        with pytest.raises(Gone, match="nowhere"):
            await api.apply(config_map("nowhere"))

    async def test_a_namespace_that_is_being_deleted(self, api: Cluster, dying: str) -> None:
        assert "is being deleted" in await eventually("NamespaceTerminating", lambda: api.apply(config_map(dying)))

    async def test_a_quota(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        kubectl("create", "quota", "none", "--hard=count/services=0")
        service = idempotent(namespace)["Service"]
        message = await eventually("QuotaExceeded", lambda: api.apply(service, dry_run=True))
        assert "count/services=0" in message

    async def test_missing_rights(self, account: Cluster, namespace: str) -> None:
        reason, message = await refused(account.list(kinds.Kind("v1", "Secret", "secrets"), namespace))
        assert (reason, message) == (
            "Forbidden",
            "The operator may not list secrets: grant its service account that verb.",
        )
        lease = kinds.Kind("apps/v1", "DaemonSet", "daemonsets")
        assert "list daemonsets.apps:" in (await refused(account.list(lease)))[1]

    async def test_a_claim_that_may_not_grow(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        await api.apply(claim(namespace, "fixed"))
        kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/one", "--timeout=30s")
        reason, message = await refused(api.apply(claim(namespace, "fixed", "2Gi")))
        assert reason == "Rejected"
        assert "only dynamically provisioned pvc can be resized" in message

    async def test_a_claim_may_not_shrink(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        await api.apply(claim(namespace, "standard", "2Gi"))
        kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "pvc/one", "--timeout=30s")
        reason, message = await refused(api.apply(claim(namespace, "standard", "1Gi")))
        assert (reason, "field can not be less than" in message) == ("Rejected", True)

    async def test_an_immutable_field(self, api: Cluster, namespace: str) -> None:
        await api.apply(deployment(namespace))
        changed = copy.deepcopy(deployment(namespace))
        changed["spec"]["selector"]["matchLabels"] = {"app": "two"}
        changed["spec"]["template"]["metadata"]["labels"] = {"app": "two"}
        reason, message = await refused(api.apply(changed))
        assert (reason, "field is immutable" in message) == ("Rejected", True)

    @pytest.mark.parametrize("wrong", [{"replcas": 1}, {"replicas": "one"}, {"replicas": -1}])
    async def test_a_manifest_that_is_wrong(self, api: Cluster, namespace: str, wrong: Object) -> None:
        reason, message = await refused(api.apply(deployment(namespace, **wrong)))
        assert reason == "Rejected"
        assert next(iter(wrong)) in message

    async def test_pod_security(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        pod = named(kinds.POD, namespace, deployment(namespace)["spec"]["template"]["spec"])
        message = await eventually("Rejected", lambda: api.apply(pod, dry_run=True))
        assert "violates PodSecurity" in message

    @pytest.mark.usefixtures("policy")
    async def test_somebody_elses_policy(self, api: Cluster, namespace: str) -> None:
        assert "no maps here" in await eventually("Rejected", lambda: api.apply(config_map(namespace), dry_run=True))

    @pytest.mark.usefixtures("broken_webhook")
    async def test_somebody_elses_webhook(self, api: Cluster, namespace: str) -> None:
        message = await eventually("WebhookFailed", lambda: api.apply(config_map(namespace)))
        assert "broken.example.com" in message

    async def test_a_resource_version_of_the_past(self, api: Cluster, namespace: str) -> None:
        await api.apply(config_map(namespace, key="old"))
        stale = config_map(namespace, key="new")
        stale["metadata"]["resourceVersion"] = "1"
        with pytest.raises(Conflict, match="the object has been modified"):
            await api.apply(stale)


class TestConnecting:
    @pytest.fixture
    def kubeconfig(self, installed: Path, tmp_path: Path) -> Path:
        """A kubeconfig of the operator's account that a test may spoil."""
        copied = tmp_path / "kubeconfig"
        copied.write_text(installed.read_text())
        return copied

    @staticmethod
    def read(kubeconfig: Path) -> Object:
        content: Object = yaml.safe_load(kubeconfig.read_text())
        return content

    def with_token(self, kubeconfig: Path, token: str) -> str:
        content = self.read(kubeconfig)
        before: str = content["users"][0]["user"]["token"]
        content["users"][0]["user"]["token"] = token
        kubeconfig.write_text(yaml.safe_dump(content))
        return before

    async def test_a_token_that_was_renewed_is_read_again(self, kubeconfig: Path) -> None:
        good = self.with_token(kubeconfig, "expired")
        async with Cluster(kubeconfig=str(kubeconfig)) as api:
            with pytest.raises(Transient, match="Unauthorized"):
                await api.list(kinds.NODE)
            self.with_token(kubeconfig, good)
            answers = await asyncio.gather(*(api.list(kinds.NODE) for _ in range(8)))
            assert all(answers)
            assert (await api.connection()).token == good

    async def test_the_connection_is_for_the_same_server_and_user(self, kubeconfig: Path) -> None:
        content = self.read(kubeconfig)
        async with Cluster(kubeconfig=str(kubeconfig)) as api:
            known = await api.connection()
        assert known.server == content["clusters"][0]["cluster"]["server"]
        assert (known.scheme, known.token) == ("Bearer", content["users"][0]["user"]["token"])
        assert known.ca_path is not None
        assert not known.insecure

    async def test_the_environment_names_the_kubeconfig(
        self, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        async with Cluster() as api:
            assert await api.list(kinds.NODE)

    @pytest.mark.parametrize(
        ("content", "context", "says"),
        [
            (None, None, "nowhere"),
            ("{", None, "nowhere"),
            ("a: [", None, "nowhere"),
            ("", None, "nowhere"),
            ("apiVersion: v1\nkind: Config\n", None, "nowhere"),
            ("good", "another", "another"),
        ],
    )
    async def test_no_usable_kubeconfig_is_one_sentence(
        self, kubeconfig: Path, content: str | None, context: str | None, says: str
    ) -> None:
        path = kubeconfig if content == "good" else kubeconfig.with_name("nowhere")
        if content is not None and content != "good":
            path.write_text(content)
        with pytest.raises(UsageError) as caught:
            async with Cluster(kubeconfig=str(path), context=context):
                pass
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
