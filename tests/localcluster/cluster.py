"""One local control plane: started, looked at, broken on purpose and ended."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localcluster import audit, build, components, kubeconfigs, kwok, nodes, pki, processes, state
from localcluster.access import ClusterAccess
from localcluster.audit import AuditEvent
from localcluster.components import Component
from localcluster.errors import LocalClusterError
from localcluster.kubectl import Kubectl
from localcluster.probe import status_of
from localcluster.state import Layout, State

_READY_DEADLINE_SECONDS = 60.0
_START_ATTEMPTS = 3
_LOG_LINES = 15


class ComponentError(LocalClusterError):
    """A component ended or did not become ready; the text holds its last log lines."""

    def __init__(self, name: str, problem: str, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        self.log_tail = "\n".join(lines[-_LOG_LINES:])
        super().__init__(f"{name} {problem}; its last log lines:\n{self.log_tail}")

    @property
    def port_taken(self) -> bool:
        """Whether somebody else took a port between its choice and its use."""
        return "address already in use" in self.log_tail


class Cluster(ClusterAccess):
    """A control plane on this machine, started by `start` or found by `attach`."""

    def __init__(self, layout: Layout, record: State) -> None:
        self.layout = layout
        self._record = record
        programs = build.ensure()
        self._programs = programs
        super().__init__(Kubectl(programs["kubectl"], layout.kubeconfig, layout.context, layout.root))

    @classmethod
    def start(cls, name: str, *, bound: bool) -> "Cluster":
        """Start a cluster from nothing and wait until it is ready.

        Args:
            name: tells clusters of one user apart; one of that name that still runs is replaced.
            bound: the cluster ends with this process, whatever ends it; otherwise it runs until `down`.

        Raises:
            LocalClusterError: a component failed; nothing of the cluster is left but its message.
        """
        build.ensure()
        state.sweep()
        with state.locked(name):
            return cls._start(state.layout_of(name), bound=bound)

    @classmethod
    def up(cls, name: str) -> tuple["Cluster", bool]:
        """Return the cluster called `name`, started if it does not run in full, and whether that was done."""
        build.ensure()
        state.sweep()
        with state.locked(name):
            found = cls.attach(name)
            if found is not None and found.complete:
                return found, False
            return cls._start(state.layout_of(name), bound=False), True

    @classmethod
    def _start(cls, layout: Layout, *, bound: bool) -> "Cluster":
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                return cls._start_once(layout, bound=bound)
            except ComponentError as error:
                if not error.port_taken or attempt == _START_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    def _start_once(cls, layout: Layout, *, bound: bool) -> "Cluster":
        state.wipe(layout)
        # Until it is ready the cluster is bound to this process in any case: whoever finds it abandoned ends it.
        cluster = cls(layout, state.claim(layout, processes.this_process(), bound_to_owner=True))
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
        return components.component(name, self.layout, self._record.ports)

    def restart(self, component: str) -> None:
        self.kill(component)
        if component == "kwok":
            # The leases name the process that is gone; another one would respect them until they run out.
            self.kubectl("delete", "leases", "--all", "--namespace=kube-node-lease")
        self._launch(component, bound=self._record.bound_to_owner)
        self._await_ready(component)

    def kill(self, component: str) -> None:
        name = self.component(component).name
        self._record.processes[name].kill()

    def audit_mark(self) -> int:
        return self.layout.audit_log.stat().st_size

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
        self._write_files()
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
        self.kubectl("create", "--validate=false", "--filename=-", input=kwok.storage_classes())
        self.add_nodes(nodes.fleet())
        self._milestone("nodes", started)
        self._record.bound_to_owner = bound
        self._record.started = True
        self._record.save(self.layout)

    def _milestone(self, name: str, started: float) -> None:
        self._record.ready_seconds[name] = round(time.monotonic() - started, 2)

    def _write_files(self) -> None:
        layout = self.layout
        tokens = pki.create(
            layout.pki, ("127.0.0.1", components.KUBERNETES_SERVICE_ADDRESS, components.ADVERTISE_ADDRESS)
        )
        server = components.endpoint("kube-apiserver", self._record.ports)
        entry = kubeconfigs.cluster_entry(server, layout.pki / "ca.crt")
        for user, token in tokens.items():
            path = layout.kubeconfig if user == "admin" else layout.component_kubeconfig(user)
            kubeconfigs.write(path, layout.context, entry, token)
        kwok.write_config(layout.root / "kwok.yaml")

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
