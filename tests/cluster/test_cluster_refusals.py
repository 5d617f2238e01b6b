"""Every refusal of a real API server as the error that it means, each provoked."""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import yaml

from localcluster.access import ClusterAccess
from localcluster.kubectl import Kubectl
from objects import Object, claim, config_map, deployment, named
from vllm_operator import kinds
from vllm_operator.cluster import Cluster
from vllm_operator.errors import Blocked, Conflict, Gone, Transient, UsageError


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


async def apply_forever(api: Cluster, namespace: str) -> None:
    """Until it is refused: whoever admits objects may learn a moment later that their namespace is being deleted."""
    while True:
        await api.apply(config_map(namespace))


class TestRefusals:
    async def test_an_unknown_kind(self, api: Cluster, namespace: str) -> None:
        reason, message = await refused(api.apply(named(kinds.POD_MONITOR, namespace, {})))
        assert reason == "CRDNotInstalled"
        assert "monitoring.coreos.com/v1" in message

    async def test_a_namespace_that_is_not_there(self, api: Cluster) -> None:
        with pytest.raises(Gone, match="nowhere"):
            await api.apply(config_map("nowhere"))

    async def test_a_namespace_that_is_being_deleted(self, api: Cluster, dying: str) -> None:
        with pytest.raises(Gone, match="is being deleted"):
            await apply_forever(api, dying)

    async def test_a_quota(self, api: Cluster, namespace: str, kubectl: Kubectl) -> None:
        kubectl("create", "quota", "none", "--hard=count/services=0")
        service = named(kinds.SERVICE, namespace, {"ports": [{"port": 80}]})
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
