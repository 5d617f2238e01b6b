"""From `kubectl apply` to the first token, beside bare `vllm serve` of the same model with the same arguments here.

`python -m bench.first_token`, or `make bench`. Both have everything on disk: model, image and packages. The resource,
of a model at a commit, is applied twice: to a namespace that holds the claim alone, and with `suspend: false` where it
was suspended. With --branch the model's revision is a branch, whose commit a Job must look up first.
With --compile the engine compiles, as it does by default, and what the first start left on disk is used by the next.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from images import models
from images.environment import VLLM
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from node.support.load import body
from node.support.served import READY_SECONDS, Served, serve, tiny
from node.support.stage import Stage, offer_models, on_stage
from operator_process import free_port

GOAL = 1.1
NAME = "bench"
_LOG = "log"
_LOOK_SECONDS = 0.02
# A connection that was begun before the Service's address led anywhere never gets there. On one machine it takes a
# millisecond.
_PATIENCE = httpx.Timeout(60, connect=0.2)
# Arguments with a value that a server beside the cluster cannot have.
_OF_THE_POD = ("--revision", "--middleware", "--host", "--port")
_LAYERS = "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/opt/vllm"  # of the image, on a node
# Of the machine, for a compiler in the container: the image has none, and no headers.
_IMAGE = Path("/opt/vllm")  # where the image has the environment
_COMPILER = ("/usr/bin", "/usr/include", "/usr/lib", "/lib")


# vLLM's own line about profiling, compiling and warming up. On the CPU it cannot load its ahead-of-time artifact
# (0.32: "Compiling model again due to a load failure"); what it compiles then comes out of inductor's cache beside it.
_INITIALISED = re.compile(r"init engine \(.*\) took ([0-9.]+) s")


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the beginning to each step of one start, those of the engine by its own word, and MiB from disk."""

    steps: Mapping[str, float]
    engine: float
    paged_in: float  # what memory had lost again although it was read before

    @property
    def seconds(self) -> float:
        return self.steps["first token"]

    def __str__(self) -> str:
        """One line for people."""
        steps = ", ".join(f"{name} after {seconds:.1f} s" for name, seconds in self.steps.items())
        return f"{steps} (engine initialised in {self.engine:.1f} s, {self.paged_in:.0f} MiB from disk)"


@dataclass(frozen=True, slots=True)
class Round:
    """One start of each."""

    ours: Start
    woken: Start
    theirs: Start

    def __str__(self) -> str:
        """A line for each."""
        return f"new: {self.ours}\nwoken: {self.woken}\nbare: {self.theirs}"


def _engine_seconds(log: str) -> float:
    *_, last = _INITIALISED.findall(log)  # there is one, or it would not serve
    return float(last)


def _paged_in() -> float:
    """MiB that this machine has read from its disks since it started."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["pgpgin"]) / 1024


def _ask(client: httpx.Client, url: str) -> bool:
    """Whether a first token comes."""
    question = body(NAME, "Hello", stream=True)
    with (
        suppress(httpx.TransportError),
        client.stream("POST", f"{url}/v1/chat/completions", json=question) as answer,
    ):
        return answer.status_code == httpx.codes.OK and any("content" in line for line in answer.iter_lines())
    return False


def _first_token(url: str) -> None:
    with httpx.Client(timeout=_PATIENCE) as client:  # one for all: to make one costs as much as a look
        wait_for(lambda: _ask(client, url), READY_SECONDS, f"a first token from {url}", interval=_LOOK_SECONDS)


def _pod_steps(pod: Mapping[str, Any], began: float) -> dict[str, float]:
    """When the pod was made, its container started and it was ready: the API server's whole seconds."""
    (status,) = pod["status"]["containerStatuses"]
    (ready,) = (one for one in pod["status"]["conditions"] if one["type"] == "Ready")
    moments = {
        "pod made": pod["metadata"]["creationTimestamp"],
        "container started": status["state"]["running"]["startedAt"],
        "pod ready": ready["lastTransitionTime"],
    }
    return {name: datetime.fromisoformat(moment).timestamp() - began for name, moment in moments.items()}


def product(stage: Stage, manifest: Mapping[str, Any]) -> tuple[Start, Served]:
    """Apply the resource and wait for its first token."""
    served = Served(stage.kubectl, NAME)
    began, clock, read = time.time(), time.monotonic(), _paged_in()
    stage.kubectl.apply(manifest)
    wait_for(lambda: stage.kubectl.get("service", NAME), message="the Service is there", interval=_LOOK_SECONDS)
    _first_token(served.url)
    seconds, read = time.monotonic() - clock, _paged_in() - read
    wait_for(lambda: served.condition("Ready").get("status") == "True", message="Ready")
    steps = {**_pod_steps(served.pod, began), "first token": seconds}
    return Start(steps, _engine_seconds(served.log), read), served


def put_to_sleep(stage: Stage, manifest: Mapping[str, Any]) -> None:
    """Apply the resource suspended, and wait until its server has ended; the cache stays filled."""
    served = Served(stage.kubectl, NAME)
    stage.kubectl.apply({**manifest, "spec": {**manifest["spec"], "suspend": True}})
    wait_for(lambda: not served.pods, READY_SECONDS, "no server is left")


def remove(stage: Stage) -> None:
    """Delete the resource and wait until its pods have ended; the claim stays."""
    stage.kubectl("delete", "vllmdeployment", NAME)
    wait_for(lambda: not stage.kubectl.items("pods"), READY_SECONDS, "no pod is left")


def bare_arguments(arguments: Sequence[str], folder: Path, port: int) -> list[str]:
    """The container's arguments, for this machine."""
    left_out = {place + offset for place, word in enumerate(arguments) if word in _OF_THE_POD for offset in (0, 1)}
    kept = [word for place, word in enumerate(arguments) if place not in {0, *left_out}]
    return [str(folder), *kept, "--host", "127.0.0.1", "--port", str(port)]


@contextmanager
def bare(arguments: list[str], home: Path) -> Iterator[None]:
    """`vllm serve` as a process of this machine."""
    environment = {
        "PATH": f"{VLLM.folder / 'bin'}:{os.defpath}",
        "HOME": str(home),
        "VLLM_CACHE_ROOT": str(home / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (home / _LOG).open("wb") as log:
        process = subprocess.Popen(["vllm", "serve", *arguments], env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def beside(arguments: Sequence[str], folder: Path, home: Path) -> Start:
    """The same model with the container's arguments, without a cluster."""
    port = free_port()
    clock, read = time.monotonic(), _paged_in()
    with bare(bare_arguments(arguments, folder, port), home):
        _first_token(f"http://127.0.0.1:{port}")
        seconds, read = time.monotonic() - clock, _paged_in() - read
        return Start({"first token": seconds}, _engine_seconds((home / _LOG).read_text()), read)


def with_compiler(manifest: dict[str, Any]) -> dict[str, Any]:
    """The resource with compilation, and with the machine's C++ compiler in its container."""
    pod = manifest["spec"]["podTemplate"]["spec"]
    torch = VLLM.site_packages / "torch" / "include"
    python = Path(sysconfig.get_path("include"))
    folders: dict[str | Path, str | Path] = {path: path for path in _COMPILER}
    folders[f"/usr/local/include/{python.name}"] = python
    folders[_IMAGE / torch.relative_to(VLLM.folder)] = torch
    pod["volumes"], mounts = [], []
    for number, (inside, outside) in enumerate(folders.items()):
        name = f"compiler{number}"
        pod["volumes"].append({"name": name, "hostPath": {"path": str(outside)}})
        mounts.append({"name": name, "mountPath": str(inside), "readOnly": True})
    pod["containers"][0]["volumeMounts"] = mounts
    manifest["spec"]["engine"] |= {"enforceEager": False}
    return manifest


def _manifest(stage: Stage, revision: str) -> dict[str, Any]:
    found = tiny(stage, NAME)
    found["spec"]["model"]["revision"] = revision
    found["spec"]["model"]["facts"] = {"parameters": 0.001}  # as for a model of the catalogue: nothing to look up
    found["spec"]["podTemplate"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1500m"
    return found


def _read(folders: Sequence[Path]) -> None:
    """Read all files of folders: what nobody read for a minute has left memory, and a start from disk takes longer."""
    with Path(os.devnull).open("wb") as nowhere:
        for path in (path for folder in folders for path in folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    shutil.copyfileobj(file, nowhere)


def _take_turns(stage: Stage, folder: Path, runs: int, make: Callable[[], dict[str, Any]]) -> list[Round]:
    """Start both in turn, once more than `runs`: the first round fills what is empty."""
    rounds, layers = [], list(stage.cluster.layout.node.glob(_LAYERS))
    assert layers, "the node has an image of vLLM"
    with tempfile.TemporaryDirectory() as home:
        for _ in range(runs + 1):
            _read(layers)
            start, served = product(stage, make())
            arguments = served.container["args"]
            put_to_sleep(stage, make())
            _read(layers)
            woken, _ = product(stage, make())
            remove(stage)
            _read([VLLM.folder])
            rounds.append(Round(start, woken, beside(arguments, folder / "tiny-llama", Path(home))))
            print(rounds[-1], flush=True)
    return rounds


def compare(stage: Stage, folder: Path, runs: int, revision: str) -> int:
    """Start both in turn and say how they compare; 1 when the goal is missed."""
    serve(stage, _manifest(stage, revision))  # fills the cache
    remove(stage)
    return _verdict(_take_turns(stage, folder, runs, lambda: _manifest(stage, revision)))


def compiled(stage: Stage, folder: Path, runs: int, revision: str) -> int:
    """The same with compilation, as vLLM starts by default; of each, the first start fills an empty compile cache."""
    # Restricted pods may not mount the machine's compiler.
    label = "pod-security.kubernetes.io/enforce=privileged"
    stage.kubectl("label", "namespace", stage.namespace, label, "--overwrite")
    rounds = _take_turns(stage, folder, runs, lambda: with_compiler(_manifest(stage, revision)))
    engines, starts = [one.ours.engine for one in rounds], [one.ours.seconds for one in rounds]
    print(f"with what the first start compiled, an engine initialises in {min(engines) / engines[0]:.2f} of its time,")
    print(f"and gives its first token in {min(starts) / starts[0]:.2f} of it")
    return _verdict(rounds)


def _verdict(rounds: Sequence[Round]) -> int:
    """Say the least and the median of each; 1 when a goal is missed.

    The least counts: what others do on the machine, of which no start is free, adds to some and takes from none.
    """
    counted = rounds[1:]
    theirs = [one.theirs.seconds for one in counted]
    print(f"bare vllm serve to first token: {_in_words(theirs)} of {len(counted)}")
    worst = 0.0
    for name, ours in (
        ("new", [one.ours.seconds for one in counted]),
        ("woken", [one.woken.seconds for one in counted]),
    ):
        ratio = min(ours) / min(theirs)
        worst = max(worst, ratio)
        medians = statistics.median(ours) / statistics.median(theirs)
        print(f"kubectl apply to first token, {name}: {_in_words(ours)}")
        print(f"  ratio of the least {ratio:.2f} (goal: at most {GOAL}), of the medians {medians:.2f}")
    return int(worst > GOAL)


def _in_words(seconds: Sequence[float]) -> str:
    return f"least {min(seconds):.1f} s, median {statistics.median(seconds):.1f} s"


def main() -> int:
    """Run on a real node of its own."""
    parser = argparse.ArgumentParser(prog="bench.first_token", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="starts of each (default: 3)")
    parser.add_argument("--compile", action="store_true", help="without --enforce-eager; needs g++ here")
    parser.add_argument("--branch", action="store_true", help="of a model at a branch, which a Job looks up first")
    args = parser.parse_args()
    local = Cluster.start("bench-node", bound=True, real_node=True)
    try:
        with tempfile.TemporaryDirectory() as name, on_stage(local, "bench") as stage:
            folder = Path(name)
            models.tiny_llama(folder / "tiny-llama")
            for number, adapter in enumerate(("adapter-a", "adapter-b")):
                models.lora_adapter(folder / adapter, seed=number)
            commit = offer_models(stage.hub, folder)
            measure = compiled if args.compile else compare
            return measure(stage, folder, args.runs, "main" if args.branch else commit)
    finally:
        local.down()


if __name__ == "__main__":
    raise SystemExit(main())
