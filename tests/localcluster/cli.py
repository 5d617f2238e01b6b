"""python -m localcluster up|down|status|kubeconfig|build: a real Kubernetes control plane on this machine."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from localcluster import build, components, node, state
from localcluster.cluster import Cluster
from localcluster.errors import LocalClusterError
from localcluster.probe import status_of
from localcluster.state import Layout, State
from localcluster.tools import TOOLS

DEFAULT_NAME = "default"
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed or not running, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    # A terminated `up` cleans up just as an interrupted one does.
    signal.signal(signal.SIGTERM, _interrupt)
    commands = {"up": _up, "down": _down, "status": _status, "kubeconfig": _kubeconfig, "build": _build}
    try:
        return commands[options.command](options)
    except LocalClusterError as error:
        print(f"localcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("localcluster: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "start the cluster in the background, unless it runs already"),
        ("down", "end the cluster and remove everything it wrote"),
        ("status", "show its programs; exit code 1 when one is missing"),
        ("kubeconfig", "print the path of its kubeconfig"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--name", default=DEFAULT_NAME, help="which cluster (default: %(default)s)")
        if name == "up":
            command.add_argument("--node", action="store_true", help="with a real node instead of simulated ones")
    built = commands.add_parser("build", help="build programs into the cache and print their paths")
    built.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"which (default: all): {', '.join(TOOLS)}")
    return parser


def _up(options: argparse.Namespace) -> int:
    cluster, started = Cluster.up(options.name, real_node=options.node)
    if started:
        seconds = cluster.ready_seconds
        print(
            f"cluster {options.name} is up: control plane ready after {seconds['control plane']:.1f} s, "
            f"nodes after {seconds['nodes']:.1f} s"
        )
    else:
        print(f"cluster {options.name} is already up")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(options: argparse.Namespace) -> int:
    layout = state.layout_of(options.name)
    with state.locked(options.name):
        existed = layout.root.exists()
        state.wipe(layout)
    print(f"cluster {options.name} is {'down' if existed else 'not there'}")
    return 0


def _status(options: argparse.Namespace) -> int:
    layout = state.layout_of(options.name)
    record = state.load(layout)
    if record is None:
        print(f"cluster {options.name} is not there; start it with: python -m localcluster up --name {options.name}")
        return 1
    rows = [_row(name, record) for name in components.ORDER]
    rows += [_node_row(name, record) for name in node.ORDER if record.network]
    _table([("COMPONENT", "STATE", "PID", "RSS MiB", "ENDPOINT", "VERSION"), *rows])
    print(f"\nkubeconfig {layout.kubeconfig}\nlogs       {_logs(layout)}")
    return 0 if all(row[1] == "ready" for row in rows) else 1


def _logs(layout: Layout) -> str:
    return f"{layout.log('*')}, audit log {layout.audit_log}"


def _row(name: str, record: State) -> tuple[str, ...]:
    process = record.processes.get(name)
    endpoint = components.endpoint(name, record.ports)
    if process is None or not process.alive:
        return name, "gone", "-", "-", endpoint, TOOLS[name].version
    ready = status_of(components.ready_url(name, record.ports)) == 200
    rss = f"{process.rss_bytes / 2**20:.0f}"
    return name, "ready" if ready else "not ready", str(process.pid), rss, endpoint, TOOLS[name].version


def _node_row(name: str, record: State) -> tuple[str, ...]:
    process = record.processes.get(name)
    state_now = "ready" if process is not None and process.alive else "gone"
    version = TOOLS[name].version if name in TOOLS else "own"
    return name, state_now, str(process.pid) if process else "-", "-", "-", version


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _kubeconfig(options: argparse.Namespace) -> int:
    cluster = Cluster.attach(options.name)
    if cluster is None:
        raise LocalClusterError(
            f"cluster {options.name} is not up; start it with: python -m localcluster up --name {options.name}"
        )
    print(cluster.kubeconfig)
    return 0


def _build(options: argparse.Namespace) -> int:
    for path in build.ensure(options.programs or TOOLS).values():
        print(path)
    return 0
