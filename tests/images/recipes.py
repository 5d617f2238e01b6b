"""The images: what they are called, which layers they have, and how their containers start."""

import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from images import environment, layers
from images.environment import Environment
from images.oci import Blob, Config, LayerWriter, write_layout
from images.progress import locked, step
from localcluster import build
from localcluster.paths import cache_root

# What the operator uses where nobody says otherwise, so that samples run here unchanged.
VLLM_NAMES = ("vllm/vllm-openai-cpu:v0.32.0", "vllm/vllm-openai:v0.32.0")
OPERATOR_NAME = "vllm-operator:0.1.0"
CHAT_SERVER_NAME = "registry.example.com/chat-server:1.0.0"
# Goes up with a change in layers.py or here that makes other content from the same inputs.
_LAYOUT = 2
_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "operator" / "vllm_operator"
_CHAT_SERVER = _ROOT / "examples" / "own-server" / "chat_server.py"
_OPERATOR_FOLDER, _VLLM_FOLDER = "/opt/vllm-operator", "/opt/vllm"
_PATH = "/usr/local/bin:/usr/bin:/bin"
# Sources for compilers and the packages' own tests: nothing loads them.
_LEFT_OUT = ("include", "tests")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a name for the terminal, a key over what decides its content, and how it is written."""

    name: str
    inputs: str
    write: Callable[[LayerWriter], None]

    @property
    def key(self) -> str:
        """Twelve hex digits; the same key is the same content."""
        return hashlib.sha256(f"{_LAYOUT} {sys.version} {self.inputs}".encode()).hexdigest()[:12]

    def ensure(self) -> Blob:
        """Return the layer, written if the cache lacks it."""
        folder = cache_root() / "layers"
        path, facts = folder / f"{self.name}-{self.key}.tar", folder / f"{self.name}-{self.key}.json"
        with locked(folder / f".{self.name}.lock"):
            if not facts.exists():
                with step(f"layer {path.name}"), LayerWriter(path) as writer:
                    self.write(writer)
                facts.write_text(json.dumps(dataclasses.asdict(writer.blob) | {"path": str(path)}))
        stored = json.loads(facts.read_text())
        return Blob(path, stored["digest"], stored["size"])


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its names, as containerd spells them, from the lowest layer to the topmost."""

    names: tuple[str, ...]
    config: Config
    layers: tuple[Layer, ...]

    @property
    def key(self) -> str:
        """Twelve hex digits over everything that decides the image."""
        parts = [*self.names, repr(self.config), *(layer.key for layer in self.layers)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def write(self, stream: IO[bytes], onto: "Image | None" = None) -> None:
        """Write the image as an OCI layout in a tar file, for `ctr images import`.

        Args:
            stream: a file or a pipe.
            onto: an image that the reader has: layers of it are left out.
        """
        there = {layer.ensure().digest for layer in onto.layers} if onto else set()
        write_layout(stream, self.names, self.config, [layer.ensure() for layer in self.layers], there)


def pause() -> Image:
    """Return the image of a pod's sandbox."""
    program = build.ensure(["pause"])["pause"]
    layer = Layer("pause", program.name, lambda writer: writer.file("/pause", program))
    return Image(("localcluster.test/pause:1",), Config(entrypoint=("/pause",)), (layer,))


def tools() -> Image:
    """Return an image with a shell, a few commands and Python, for what tests run beside the servers."""
    return Image(("localcluster.test/tools:1",), _config("sh", (), user="1000:1000"), (_python(),))


def vllm() -> Image:
    """Return vLLM's CPU build under the names of the images that the operator uses by default."""
    settings = {"PATH": f"{_VLLM_FOLDER}/bin:{_PATH}", "VLLM_TARGET_DEVICE": "cpu"}
    names = tuple(canonical(name) for name in VLLM_NAMES)
    config = _config("vllm", ("serve",), user="", settings=settings)
    return Image(names, config, (_python(), _packages(environment.VLLM, _VLLM_FOLDER)))


def operator() -> Image:
    """Return the project's own image, as the Dockerfile describes it."""
    settings = {"PATH": f"{_OPERATOR_FOLDER}/bin:{_PATH}", "HOME": "/"}
    config = _config("vllm-operator", (), user="65532:65532", settings=settings, command=("run",))
    package = Layer("operator-package", _source_digest(_PACKAGE), _write_package)
    stack = (_python(), _packages(environment.OPERATOR, _OPERATOR_FOLDER), package)
    return Image((canonical(OPERATOR_NAME),), config, stack)


def chat_server() -> Image:
    """Return examples/own-server on top of vLLM's image, as its Dockerfile describes it."""
    base = vllm()
    # Where the Dockerfile has a working directory; every container here begins in the root folder.
    settings = {**base.config.environment, "PYTHONPATH": "/srv"}
    config = Config(("uvicorn", "chat_server:app"), (), settings, "1000:1000")
    source = hashlib.sha256(_CHAT_SERVER.read_bytes()).hexdigest()
    added = Layer("chat-server", source, lambda writer: writer.file("/srv/chat_server.py", _CHAT_SERVER))
    return Image((CHAT_SERVER_NAME,), config, (*base.layers, added))


IMAGES: dict[str, Callable[[], Image]] = {
    "pause": pause,
    "tools": tools,
    "vllm": vllm,
    "operator": operator,
    "chat-server": chat_server,
}


def canonical(name: str) -> str:
    """Return an image name as containerd stores it: with the registry, which is Docker Hub where none is named."""
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def _config(
    program: str,
    arguments: tuple[str, ...],
    *,
    user: str,
    settings: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
) -> Config:
    shared = {
        "PATH": _PATH,
        "LD_LIBRARY_PATH": f"{layers.PREFIX}/lib",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
    }
    return Config((program, *arguments), command, shared | (settings or {}), user)


def _python() -> Layer:
    def write(writer: LayerWriter) -> None:
        layers.write_python(writer)
        layers.write_busybox(writer)
        layers.write_program(writer, "lscpu")  # vLLM asks it for the processor's cores and NUMA nodes

    return Layer("python", "", write)


def _packages(source: Environment, target: str) -> Layer:
    return Layer(
        f"{source.name}-packages",
        f"{source.key} {target}",
        lambda writer: layers.write_environment(writer, source, target, _LEFT_OUT),
    )


def _write_package(writer: LayerWriter) -> None:
    site = f"{_OPERATOR_FOLDER}/lib/{layers.PYTHON}/site-packages"
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "vllm_operator"
        shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        environment.compile_bytecode(copy)
        writer.tree(f"{site}/vllm_operator", copy)
    script = f"#!{_OPERATOR_FOLDER}/bin/python\nimport sys\nfrom vllm_operator.__main__ import main\nsys.exit(main())\n"
    writer.text(f"{_OPERATOR_FOLDER}/bin/vllm-operator", script, 0o755)


def _source_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
