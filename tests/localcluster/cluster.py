"""One local control plane: started, looked at, broken on purpose and ended."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localcluster import audit, build, components, kubeconfigs, kwok, node, nodes, pki, processes, requirements, state
from localcluster.access import ClusterAccess
from localcluster.audit import AuditEvent
from localcluster.components import Component
from localcluster.errors import ComponentError, LocalClusterError
from localcluster.kubectl import Kubectl
from localcluster.node import Node
from localcluster.nodeconfig import NODE_NAME
from localcluster.probe import status_of
from localcluster.state import Layout, State
from localcluster.tools import CONTROL_PLANE, NODE
from localcluster.wait import wait_for

_READY_DEADLINE_SECONDS = 60.0
_START_ATTEMPTS = 3


class Cluster(ClusterAccess):
    """A control plane on this machine, started by `start` or found by `attach`."""

    def __init__(self, layout: Layout, record: State) -> None:
        self.layout = layout
        self._record = record
        programs = build.ensure()
        self._programs = programs
        super().__init__(Kubectl(programs["kubectl"], layout.kubeconfig, layout.context, layout.root))

    @classmethod
    def start(cls, name: str, *, bound: bool, real_node: bool = False) -> "Cluster":
        """Start a cluster from nothing and wait until it is ready.

        Args:
            name: tells clusters of one user apart; one of that name that still runs is replaced.
            bound: the cluster ends with this process, whatever ends it; otherwise it runs until `down`.
            real_node: its node is a real one, and it has no simulated nodes but those that are added.

        Raises:
            LocalClusterError: a component failed; nothing of the cluster is left but its message.
        """
        _prepare(real_node=real_node)
        state.sweep()
        with state.locked(name):
            return cls._start(state.layout_of(name), bound=bound, real_node=real_node)

    @classmethod
    def up(cls, name: str, *, real_node: bool = False) -> tuple["Cluster", bool]:
        """Return the cluster called `name`, started if it does not run in full, and whether that was done."""
        _prepare(real_node=real_node)
        state.sweep()
        with state.locked(name):
            found = cls.attach(name)
            if found is not None and found.complete and (found.record.network is not None or not real_node):
                return found, False
            return cls._start(state.layout_of(name), bound=False, real_node=real_node), True

    @classmethod
    def _start(cls, layout: Layout, *, bound: bool, real_node: bool) -> "Cluster":
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                return cls._start_once(layout, bound=bound, real_node=real_node)
            except LocalClusterError as error:
                if not error.taken or attempt == _START_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    def _start_once(cls, layout: Layout, *, bound: bool, real_node: bool) -> "Cluster":
        state.wipe(layout)
        # Until it is ready the cluster is bound to this process in any case: whoever finds it abandoned ends it.
        record = state.claim(layout, processes.this_process(), bound_to_owner=True, real_node=real_node)
        cluster = cls(layout, record)
        try:
            cluster._bring_up(bound=bound)
        except BaseException:
            state.wipe(layout)
            raise
        return cluster

    @classmethod
    def attach(cls, name: str) -> "Cluster | None":
        """Return the cluster called `name` that has been started, or None where there is none."""
        layout = state.layout_of(name)
        record = state.load(layout)
        return cls(layout, record) if record and record.started and not record.abandoned else None

    @property
    def folder(self) -> Path:
        return self.layout.root

    @property
    def ready_seconds(self) -> dict[str, float]:
        """Seconds from the start until each milestone: `apiserver`, `control plane`, `nodes`."""
        return self._record.ready_seconds

    @property
    def complete(self) -> bool:
        """Whether every component runs."""
        return all(process.alive for process in self._record.processes.values())

    @property
    def record(self) -> State:
        """The ports and processes as they are now."""
        return self._record

    def component(self, name: str) -> Component:
        """Return how the component called `name` is started.

        Raises:
            LocalClusterError: there is no such component.
        """
        if name not in components.ORDER:
            raise LocalClusterError(f"no component {name!r}; there are: {', '.join(components.ORDER)}")
        return components.component(name, self.layout, self._record.ports, self._record.network)

    @property
    def node(self) -> Node:
        """The real node; its properties raise LocalClusterError where the cluster was started without one."""
        return Node(self.layout, self._record, build.ensure(NODE))

    def set_gpus(self, product: str, gpus: int) -> None:
        """Let the real node claim `gpus` GPUs of `product`, by capacity and labels as GPU feature discovery sets them.

        A restarted kubelet forgets the capacity.

        Raises:
            LocalClusterError: the product is not in manifests/nodes.yaml.
        """
        labels, capacity = nodes.gpu_facts(product, gpus)
        self.kubectl("label", "node", NODE_NAME, "--overwrite", *(f"{key}={value}" for key, value in labels.items()))
        status = json.dumps({"status": {"capacity": capacity}})
        self.kubectl("patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={status}")
        wanted = capacity.items()
        wait_for(
            lambda: wanted <= (self.kubectl.get("node", NODE_NAME) or {})["status"]["allocatable"].items(),
            _READY_DEADLINE_SECONDS,
            f"{capacity} allocatable on {NODE_NAME}",
        )

    def claim_folder(self, kubectl: Kubectl, claim: str) -> Path:
        """Return the folder on this machine behind a claim of a class of the real node, once it is bound.

        Args:
            kubectl: bound to the claim's namespace.
            claim: its name.
        """
        found: str = wait_for(
            lambda: (kubectl.get("pvc", claim) or {"spec": {}})["spec"].get("volumeName"),
            _READY_DEADLINE_SECONDS,
            f"claim {claim} bound",
        )
        return self.node.volumes / found

    def fill_claim(self, kubectl: Kubectl, claim: str, source: Path) -> None:
        """Copy what is in the folder `source` into a claim of the real node, readable by everyone."""
        target = self.claim_folder(kubectl, claim)
        shutil.copytree(source, target, dirs_exist_ok=True)
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def restart(self, component: str) -> None:
        self.kill(component)
        if component in node.ORDER:
            self.node.launch(component, bound=self._record.bound_to_owner)
            return
        if component == "kwok":
            # The leases name the process that is gone; another one would respect them until they run out.
            self.kubectl("delete", "leases", "--all", "--namespace=kube-node-lease")
        self._launch(component, bound=self._record.bound_to_owner)
        self._await_ready(component)

    def kill(self, component: str) -> None:
        name = component if component in self._record.processes else self.component(component).name
        self._record.processes[name].kill()

    def audit_mark(self) -> int:
        return audit.mark(self.layout.audit_log)

    def audit_events(self, user: str | None = None, since: int = 0) -> Iterator[AuditEvent]:
        for event in audit.read(self.layout.audit_log, since):
            if user is None or event.user == user:
                yield event

    def down(self) -> None:
        """End every process of the cluster and remove all its files."""
        with state.locked(self.layout.name):
            state.wipe(self.layout)

    def _bring_up(self, *, bound: bool) -> None:
        started = time.monotonic()
        tokens = self._write_files()
        for name in ("etcd", "kube-apiserver"):
            self._launch(name, bound=bound)
            self._await_ready(name)
        self._milestone("apiserver", started)
        # Only now: before the API server has made its own roles the controller-manager is refused, and exits.
        rest = components.ORDER[2:]
        for name in rest:
            self._launch(name, bound=bound)
        for name in rest:
            self._await_ready(name)
        self._await("kube-controller-manager", self._default_account_exists, "made no default ServiceAccount")
        self._milestone("control plane", started)
        self._add_nodes(tokens, bound=bound)
        self._milestone("nodes", started)
        self._record.bound_to_owner = bound
        self._record.started = True
        self._record.save(self.layout)

    def _milestone(self, name: str, started: float) -> None:
        self._record.ready_seconds[name] = round(time.monotonic() - started, 2)

    def _add_nodes(self, tokens: dict[str, str], *, bound: bool) -> None:
        real = self._record.network is not None
        classes = node.storage_classes() if real else kwok.storage_classes()
        self.kubectl("create", "--validate=false", "--filename=-", input=classes)
        if not real:
            self.add_nodes(nodes.fleet())
            return
        server_port = self._record.ports["kube-apiserver"]
        own = {user: token for user, token in tokens.items() if user in pki.NODE_IDENTITIES}
        self.node.start(server_port, own, node.images(), bound=bound)
        wait_for(lambda: NODE_NAME in self._ready_nodes(), _READY_DEADLINE_SECONDS, f"node {NODE_NAME} Ready")

    def _write_files(self) -> dict[str, str]:
        """Write keys, kubeconfigs and kwok's configuration, and return the token of each user."""
        layout, network = self.layout, self._record.network
        addresses = (components.KUBERNETES_SERVICE_ADDRESS, components.ADVERTISE_ADDRESS)
        if network:
            addresses = (network.kubernetes_service, network.host)
        identities = pki.IDENTITIES | (pki.NODE_IDENTITIES if network else {})
        tokens = pki.create(layout.pki, ("127.0.0.1", *addresses), identities)
        server = components.endpoint("kube-apiserver", self._record.ports)
        entry = kubeconfigs.cluster_entry(server, layout.pki / "ca.crt")
        for user in pki.IDENTITIES:
            path = layout.kubeconfig if user == "admin" else layout.component_kubeconfig(user)
            kubeconfigs.write(path, layout.context, entry, tokens[user])
        kwok.write_config(layout.root / "kwok.yaml")
        return tokens

    def _launch(self, name: str, *, bound: bool) -> None:
        command = [str(self._programs[name]), *self.component(name).arguments]
        started = processes.spawn(command, self.layout.log(name), self.layout.root, die_with_parent=bound)
        self._record.processes[name] = started
        self._record.save(self.layout)

    def _await_ready(self, name: str) -> None:
        url = self.component(name).ready_url
        self._await(name, lambda: status_of(url) == 200, "was not ready")

    def _default_account_exists(self) -> bool:
        names = ("serviceaccount/default", "configmap/kube-root-ca.crt")
        return self.kubectl("get", *names, "--namespace=default", check=False).returncode == 0

    def _await(self, name: str, ready: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _READY_DEADLINE_SECONDS
        while not ready():
            if not self._record.processes[name].alive:
                raise ComponentError(name, "ended", self.layout.log(name))
            if time.monotonic() > deadline:
                raise ComponentError(name, f"{otherwise} after {_READY_DEADLINE_SECONDS:g} s", self.layout.log(name))
            time.sleep(0.05)


def _prepare(*, real_node: bool) -> None:
    """Build what is missing, before anything is started."""
    if real_node:
        requirements.ensure()
        requirements.allow_watches()
    build.ensure([*CONTROL_PLANE, *(NODE if real_node else ())])
