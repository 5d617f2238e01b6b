"""Both ways of installing, with the real kubectl and the real helm, and the operator under what they install."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import operator_process
from helm import CHART, Helm
from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.kubectl import Kubectl
from localcluster.wait import wait_for
from operator_process import ACCOUNT, INSTALL, NAMESPACE, ROOT, OperatorProcess
from vllm_operator import config

SAMPLE = operator_process.ROOT / "manifests" / "samples" / "mistral-7b.yaml"
_ADDED_LABELS = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}


@pytest.fixture(scope="module")
def fresh(cluster: ClusterAccess) -> Iterator[Cluster]:
    """A cluster of this module's own: what it installs and removes would pull the rug from under the others."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the local control plane; run without CLUSTER=kind")
    started = Cluster.start(f"install-{os.getpid()}", bound=True)
    yield started
    started.down()


@pytest.fixture
def system(fresh: Cluster) -> Iterator[Kubectl]:
    """kubectl in the operator's own namespace, with what install.yaml makes; it is removed afterwards."""
    system = fresh.kubectl.in_namespace(NAMESPACE)
    system("apply", f"--filename={INSTALL}")
    yield system
    system("delete", f"--filename={INSTALL}", "--ignore-not-found", "--wait")


@pytest.fixture
def helm(fresh: Cluster) -> Iterator[Helm]:
    """helm in the operator's own namespace, and nothing installed."""
    system = fresh.kubectl.in_namespace(NAMESPACE)
    helm = Helm(system, NAMESPACE)
    yield helm
    helm("uninstall", "vllm-operator", "--ignore-not-found", "--wait")
    system("delete", f"--filename={CHART / 'crds'}", "--ignore-not-found")


@pytest.fixture
def offline_helm(fresh: Cluster) -> Helm:
    """helm for what needs nothing installed."""
    return Helm(fresh.kubectl, NAMESPACE)


def _by_name(documents: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects without the labels that helm adds."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in yaml.safe_load_all(documents):
        if one is None or one["kind"] == "Namespace":
            continue
        labels = one["metadata"].get("labels", {})
        one["metadata"]["labels"] = {key: value for key, value in labels.items() if key not in _ADDED_LABELS}
        found[one["kind"], one["metadata"]["name"]] = one
    return found


def _operator_container(system: Kubectl) -> dict[str, Any]:
    deployment = system.get("deployment", "vllm-operator")
    assert deployment is not None
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def test_kubectl_apply_installs_and_applies_again_without_a_change(system: Kubectl) -> None:
    system("rollout", "status", "deployment/vllm-operator", "--timeout=30s")
    assert system.get("crd", "vllmdeployments.vllm-operator.dev") is not None
    again = system("apply", f"--filename={INSTALL}").stdout.splitlines()
    assert len(again) == len(operator_process.manifests())
    # kubectl replaces the selector of a PodDisruptionBudget by itself, and calls that a change.
    configured = [line for line in again if not line.endswith("unchanged")]
    assert configured in ([], ["poddisruptionbudget.policy/vllm-operator configured"])
    assert system("diff", f"--filename={INSTALL}").stdout == ""


def test_the_pod_is_admitted_by_the_restricted_pod_security_standard(system: Kubectl) -> None:
    namespace = system.get("namespace", NAMESPACE) or {}
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    deployment = next(one for one in operator_process.manifests() if one["kind"] == "Deployment")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried"},
        "spec": deployment["spec"]["template"]["spec"],
    }
    system("create", "--dry-run=server", "--filename=-", input=pod)
    pod["spec"]["containers"][0].pop("securityContext")
    refused = system("create", "--dry-run=server", "--filename=-", input=pod, check=False)
    assert "violates PodSecurity" in refused.stderr


def test_the_operator_may_read_no_secret(system: Kubectl) -> None:
    user = f"--as={operator_process.USER}"
    for verb in ("get", "list", "watch"):
        assert system("auth", "can-i", verb, "secrets", user, "--all-namespaces", check=False).stdout.strip() == "no"
    assert system("auth", "can-i", "list", "nodes", user).stdout.strip() == "yes"


@pytest.mark.usefixtures("installed")
def test_who_may_edit_a_namespace_may_edit_its_resources(kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "developer")
    kubectl("create", "serviceaccount", "auditor")
    for account, role in (("developer", "edit"), ("auditor", "view")):
        kubectl(
            "create", "rolebinding", account, f"--clusterrole={role}", f"--serviceaccount={kubectl.namespace}:{account}"
        )

    def may(account: str, verb: str) -> bool:
        user = f"--as=system:serviceaccount:{kubectl.namespace}:{account}"
        return kubectl("auth", "can-i", verb, "vllmdeployments", user, check=False).returncode == 0

    wait_for(lambda: may("developer", "create"), message="edit is aggregated")
    wait_for(lambda: may("auditor", "list"), message="view is aggregated")
    assert not may("auditor", "create")


def test_the_chart_is_clean(offline_helm: Helm) -> None:
    answer = offline_helm("lint", str(CHART), "--strict")
    assert "0 chart(s) failed" in answer
    assert "WARNING" not in answer


def test_the_chart_says_what_install_yaml_says(offline_helm: Helm) -> None:
    rendered = offline_helm("template", "vllm-operator", str(CHART), "--include-crds")
    assert _by_name(rendered) == _by_name(INSTALL.read_text())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("replicas=-1", "replicas"),
        ("logLevel=loud", "logLevel"),
        ("image.tag=latest", "tag"),
        ("watchNamespace=team-a", "watchNamespace"),
        ("extraEnv[0].name=VLLM_OPERATOR_NAMESPACE", "extraEnv"),
        ("config.worker=4", "worker"),
        ("monitoring.serviceMonitor=true", "serviceMonitor"),
        ("config.log_level=debug", "log_level"),
    ],
)
def test_the_chart_refuses_values_that_do_nothing_good(offline_helm: Helm, value: str, complaint: str) -> None:
    answer = offline_helm("template", "vllm-operator", str(CHART), "--set", value, check=False)
    assert "values don't meet the specifications" in answer
    assert complaint in answer


def test_helm_installs_upgrades_and_uninstalls(helm: Helm) -> None:
    system = helm.kubectl
    notes = helm("install", "vllm-operator", str(CHART), "--create-namespace", "--wait", "--timeout=60s")
    assert "kubectl get vllmdeployments" in notes
    assert _operator_container(system)["image"] == "vllm-operator:0.1.0"

    settings = (
        "logLevel=debug,watchNamespaces={default},engineImage=registry.example.com/vllm:v1,cpuImage=example/cpu:v1"
    )
    helm("upgrade", "vllm-operator", str(CHART), "--wait", "--timeout=60s", "--set", settings)
    variables = {one["name"]: one["value"] for one in _operator_container(system)["env"]}
    assert variables.pop("VLLM_OPERATOR_CONFIG") == "/etc/vllm-operator/config.yaml"
    loaded = config.load(variables, {})
    assert (loaded.log_level, loaded.namespace) == ("debug", ("default",))
    assert (loaded.engine_image, loaded.cpu_image) == ("registry.example.com/vllm:v1", "example/cpu:v1")

    helm("uninstall", "vllm-operator", "--wait")
    assert system.get("deployment", "vllm-operator") is None
    assert system.get("clusterrole", "vllm-operator") is None
    assert system.get("crd", "vllmdeployments.vllm-operator.dev") is not None, "users' resources outlive the operator"


def test_rows_of_the_tables_reach_the_operator(helm: Helm, tmp_path: Path) -> None:
    rows = {"gpus": {"ACME-X1": {"memoryGiB": 47.5, "computeCapability": "12.0", "bf16": True}}}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"tables": rows}))
    helm("install", "vllm-operator", str(CHART), "--create-namespace", "--wait", "--values", str(values))
    mounted = helm.kubectl.get("configmap", "vllm-operator-tables")
    assert mounted is not None
    container = _operator_container(helm.kubectl)
    variable = next(one["value"] for one in container["env"] if one["name"] == "VLLM_OPERATOR_TABLES")
    (name,) = mounted["data"]
    assert variable == f"{container['volumeMounts'][0]['mountPath']}/{name}"
    (tmp_path / name).write_text(mounted["data"][name])
    tables = config.load({"VLLM_OPERATOR_TABLES": str(tmp_path / name)}, {}).defaults().tables
    assert tables.gpus["ACME-X1"].memory_gib == 47.5
    assert tables.bad == ()


def test_settings_reach_the_operator_and_a_change_restarts_it(helm: Helm, tmp_path: Path) -> None:
    helm("install", "vllm-operator", str(CHART), "--create-namespace", "--set", "config.workers=4")
    before = _pod_annotations(helm)
    mounted = helm.kubectl.get("configmap", "vllm-operator-config")
    assert mounted is not None
    (name,) = mounted["data"]
    (tmp_path / name).write_text(mounted["data"][name])
    assert config.load({"VLLM_OPERATOR_CONFIG": str(tmp_path / name)}, {}).workers == 4
    helm("upgrade", "vllm-operator", str(CHART), "--set", "config.workers=5")
    assert before["checksum/config"] != _pod_annotations(helm)["checksum/config"]


def _pod_annotations(helm: Helm) -> dict[str, str]:
    deployment = helm.kubectl.get("deployment", "vllm-operator")
    assert deployment is not None
    annotations: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return annotations


def test_the_chart_has_the_operator_monitored_where_it_is_asked_to(offline_helm: Helm) -> None:
    values = "monitoring.podMonitor=true,monitoring.rules=true,monitoring.labels.release=stack"
    found = _by_name(offline_helm("template", "vllm-operator", str(CHART), "--set", values))
    monitor, rule = found["PodMonitor", "vllm-operator"], found["PrometheusRule", "vllm-operator"]
    pod = found["Deployment", "vllm-operator"]["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    (group,) = rule["spec"]["groups"]
    assert group["rules"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert {one["metadata"]["labels"]["release"] for one in (monitor, rule)} == {"stack"}


def test_helm_refuses_a_second_operator(helm: Helm) -> None:
    helm("install", "vllm-operator", str(CHART), "--create-namespace")
    elsewhere = Helm(helm.kubectl, "elsewhere")
    answer = elsewhere("install", "another", str(CHART), "--create-namespace", check=False)
    assert 'ClusterRole "vllm-operator"' in answer
    assert "cannot be imported into the current release" in answer


def test_operators_for_namespaces_are_installed_side_by_side(helm: Helm) -> None:
    system, nodes = helm.kubectl, ("--set", "watchNodes=true")
    for name in ("elsewhere", "team-a", "team-b"):
        system("create", "namespace", name)
    helm("install", "vllm-operator", str(CHART), "--create-namespace", "--set", "watchNamespaces={team-a}", *nodes)
    elsewhere = Helm(system, "elsewhere")
    elsewhere("install", "two", str(CHART), "--set", "watchNamespaces={team-b},userRoles=false", "--skip-crds")
    assert system.get("clusterrole", "vllm-operator") is None
    again = elsewhere("upgrade", "two", str(CHART), "--set", "watchNamespaces={team-a},userRoles=false", check=False)
    assert 'Role "vllm-operator" in namespace "team-a"' in again

    def may(account: str, verb: str, resource: str, namespace: str) -> bool:
        user = f"--as=system:serviceaccount:{account}:{ACCOUNT}"
        asked = ("auth", "can-i", verb, resource, f"--namespace={namespace}", user)
        return system(*asked, check=False).stdout.strip() == "yes"

    wait_for(lambda: may(NAMESPACE, "list", "nodes", "default"), message="rights are in force")
    assert may(NAMESPACE, "patch", "deployments", "team-a")
    assert not may(NAMESPACE, "list", "deployments", "team-b")
    assert may("elsewhere", "patch", "deployments", "team-b")
    assert may("elsewhere", "update", "leases/vllm-operator", "elsewhere")
    for resource, namespace in (("nodes", "default"), ("deployments", "team-a"), ("secrets", "team-b")):
        assert not may("elsewhere", "list", resource, namespace)
    elsewhere("uninstall", "two", "--wait")


def test_the_chart_grants_in_namespaces_what_the_manifest_does(offline_helm: Helm) -> None:
    rendered = offline_helm("template", "vllm-operator", str(CHART), "--set", "watchNamespaces={models}")
    manifest = (ROOT / "manifests" / "install-namespaced.yaml").read_text()
    ours, theirs = _by_name(rendered), _by_name(manifest)
    assert ours["Role", "vllm-operator"]["rules"] == theirs["Role", "vllm-operator"]["rules"]
    assert {name for kind, name in ours if kind == "ClusterRole"} == {"vllm-operator-edit", "vllm-operator-view"}
    assert not [name for kind, name in ours if kind == "ClusterRoleBinding"]


def test_the_account_of_the_chart_can_do_the_work(helm: Helm, fresh: Cluster) -> None:
    helm("install", "vllm-operator", str(CHART), "--create-namespace", "--set", "replicas=0")
    team = fresh.kubectl.in_namespace("default")
    kubeconfig = fresh.kubeconfig_for(ACCOUNT, NAMESPACE)
    process = OperatorProcess(kubeconfig, fresh.folder / "operator.log", {"namespace": "default"})
    process.start()
    try:
        process.wait_ready()
        _assert_serves(team)
    finally:
        code = process.stop()
    assert code == 0, process.tail()
    team("delete", f"--filename={SAMPLE}")


def _assert_serves(kubectl: Kubectl) -> None:
    kubectl("apply", f"--filename={SAMPLE}")
    kubectl("wait", "--for=condition=Ready", "vllmdeployment/mistral-7b", "--timeout=60s", timeout=70)
    workload = kubectl.get("deployment", "mistral-7b")
    assert workload is not None
    assert workload["metadata"]["ownerReferences"][0]["kind"] == "VLLMDeployment"


def test_the_account_of_install_yaml_can_do_the_work(operator: OperatorProcess, kubectl: Kubectl) -> None:
    _assert_serves(kubectl)
    assert operator.stop() == 0, operator.tail()
