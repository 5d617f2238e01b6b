"""Images unpacked once, in a containerd folder of the cache that every node gets a copy of by hard links."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

from images.progress import locked, step
from images.recipes import Image
from localcluster import nodeconfig
from localcluster.errors import LocalClusterError
from localcluster.paths import cache_root
from localcluster.processes import deathsig_command
from localcluster.requirements import program
from localcluster.wait import wait_for

_START_DEADLINE_SECONDS = 30.0
_NAMESPACE = "k8s.io"  # the one that the kubelet's images are in


def copy_to(target: Path, images: Sequence[Image], programs: Path) -> None:
    """Make `target` a containerd folder that holds `images`, which are built and unpacked where the cache lacks them.

    Unpacked files are shared with the cache and never written to; the databases are copies.
    """
    root = cache_root() / "containerd"
    with locked(root / ".lock"):
        _import_missing(root, images, programs)
        subprocess.run(["cp", "--archive", "--link", str(root / "data"), str(target)], check=True)
        for database in target.rglob("*.db"):
            source = root / "data" / database.relative_to(target)
            database.unlink()
            shutil.copy2(source, database)


def _import_missing(root: Path, images: Sequence[Image], programs: Path) -> None:
    missing = [image for image in images if not _marker(root, image).exists()]
    if not missing:
        return
    (root / "markers").mkdir(exist_ok=True)
    with _containerd(root / "data", programs) as ctr:
        for image in missing:
            for layer in image.layers:
                layer.ensure()
            with step(f"unpacking {image.names[0]}"):
                load(ctr, image)
            for older in (root / "markers").glob(f"{_marker(root, image).stem}.*"):
                older.unlink()
            _marker(root, image).touch()
        subprocess.run([*ctr, "content", "prune", "references"], check=True, capture_output=True)


def load(ctr: Sequence[str], image: Image, onto: Image | None = None) -> None:
    """Import an image by the `ctr` command of a containerd that runs; layers of `onto` are there already.

    Raises:
        LocalClusterError: containerd refused it.
    """
    command = [*ctr, "images", "import", "--local", "-"]
    with Popen(command, stdin=PIPE, stdout=subprocess.DEVNULL, stderr=PIPE) as process:
        assert process.stdin is not None and process.stderr is not None  # noqa: PT018 - both are pipes
        try:
            image.write(process.stdin, onto)
            process.stdin.close()
        except BrokenPipeError:
            pass
        problem = process.stderr.read().decode()
    if process.returncode != 0:
        raise LocalClusterError(f"importing {image.names[0]} failed: {problem.strip()}")


def ctr_command(programs: Path, socket: str) -> list[str]:
    """Return the start of a `ctr` command that looks at the kubelet's images."""
    return [str(programs / "ctr"), "--address", socket, "--namespace", _NAMESPACE]


def _marker(root: Path, image: Image) -> Path:
    return root / "markers" / f"{image.names[0].replace('/', '_')}.{image.key}"


@contextmanager
def _containerd(data: Path, programs: Path) -> Iterator[list[str]]:
    """Run containerd on `data`, with mounts of its own, and yield the `ctr` command that talks to it."""
    with tempfile.TemporaryDirectory(prefix="ctd-") as state:
        config = Path(state) / "config.toml"
        config.write_text(nodeconfig.containerd(str(data), state))
        log = Path(state) / "log"
        isolated = [*deathsig_command(), program("unshare"), "--mount"]
        with log.open("w") as output:
            process = Popen(
                [*isolated, str(programs / "containerd"), "--config", str(config)], stdout=output, stderr=output
            )
        ctr = ctr_command(programs, f"{state}/containerd.sock")
        try:
            _await(ctr, process, log)
            yield ctr
        finally:
            process.terminate()
            process.wait()


def _await(ctr: Sequence[str], process: Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise LocalClusterError(f"containerd ended with {process.returncode}; its log:\n{log.read_text()[-3000:]}")
        return subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0

    wait_for(answers, _START_DEADLINE_SECONDS, "containerd answers")
