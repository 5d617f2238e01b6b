"""The layers that images are made of: a Python interpreter with its system libraries, environments, and programs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from images.environment import Environment, compile_bytecode
from images.oci import LayerWriter

PREFIX = "/usr/local"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LDD_LINE = re.compile(r"^\s+(?:(\S+) => )?(/\S+) \(0x", re.MULTILINE)
# Where the dynamic linker looks by itself; a library from anywhere else goes to PREFIX/lib.
_SYSTEM_FOLDERS = ("/lib", "/usr/lib")
_STDLIB_LEFT_OUT = (
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "site-packages",
    "dist-packages",
)
_SHELL_TOOLS = ("sh", "cat", "cp", "dd", "df", "env", "id", "kill", "ls", "mkdir", "ps", "rm", "sleep", "stat", "touch")
_ACCOUNTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nvllm:x:1000:1000::/home/vllm:/bin/sh\n",
    "/etc/group": "root:x:0:\nvllm:x:1000:\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}


def write_python(layer: LayerWriter) -> None:
    """Add the interpreter that runs this, at /usr/local, with the standard library and all it is linked against."""
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    for path, content in _ACCOUNTS.items():
        layer.text(path, content)
    layer.folder("/tmp", 0o1777)  # noqa: S108 - a folder of the image
    layer.file(f"{PREFIX}/bin/{PYTHON}", interpreter)
    layer.link(f"{PREFIX}/bin/python3", PYTHON)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / PYTHON
        shutil.copytree(stdlib, copy, symlinks=True, ignore=shutil.ignore_patterns(*_STDLIB_LEFT_OUT, "config-*"))
        compile_bytecode(copy)
        layer.tree(f"{PREFIX}/lib/{PYTHON}", copy)
    write_libraries(layer, [interpreter, *stdlib.rglob("*.so")])


def write_busybox(layer: LayerWriter) -> None:
    """Add a shell and the few commands that tests and probes run, from this machine's static busybox."""
    layer.file("/bin/busybox", Path(_program("busybox")))
    for command in _SHELL_TOOLS:
        layer.link(f"/bin/{command}", "busybox")


def write_program(layer: LayerWriter, name: str) -> None:
    """Add a program of this machine and its libraries."""
    path = Path(_program(name))
    layer.file(f"/usr/bin/{name}", path)
    write_libraries(layer, [path])


def write_environment(layer: LayerWriter, environment: Environment, target: str, left_out: Iterable[str] = ()) -> None:
    """Add a virtual environment as `target`, with the system libraries that its modules are linked against.

    Args:
        layer: what is written to.
        environment: made if the cache lacks it.
        target: its folder in the image.
        left_out: names of files and folders that are not taken.
    """
    folder = environment.ensure()
    layer.text(f"{target}/pyvenv.cfg", f"home = {PREFIX}/bin\ninclude-system-site-packages = false\n")
    layer.link(f"{target}/bin/python", f"{PREFIX}/bin/{PYTHON}")
    layer.link(f"{target}/bin/python3", "python")
    for script in sorted((folder / "bin").iterdir()):
        text = _script(script, folder)
        if text is not None:
            layer.text(f"{target}/bin/{script.name}", text.replace(str(folder), target), 0o755)
    site = f"{target}/lib/{PYTHON}/site-packages"
    layer.tree(site, environment.site_packages, left_out)
    modules = [*environment.site_packages.rglob("*.so"), *environment.site_packages.rglob("*.so.*")]
    write_libraries(layer, modules, inside=folder)


def _script(path: Path, folder: Path) -> str | None:
    """Return the text of a command of the environment, None for what is not one."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as handle:
        if handle.read(2 + len(str(folder))) != f"#!{folder}".encode():
            return None
    return path.read_text()


def write_libraries(layer: LayerWriter, binaries: Iterable[Path], inside: Path | None = None) -> None:
    """Add every shared library that `binaries` load, but for those below the folder `inside`."""
    for soname, path in sorted(_linked(binaries)):
        if inside is None or not path.is_relative_to(inside):
            layer.file(_library_target(soname, path), path)


def _library_target(soname: str, path: Path) -> str:
    known = str(path).startswith(_SYSTEM_FOLDERS)
    return str(path) if known else f"{PREFIX}/lib/{soname}"


def _linked(binaries: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    found: dict[str, Path] = {}
    for binary in binaries:
        answer = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
        for soname, path in _LDD_LINE.findall(answer.stdout):
            found.setdefault(soname or Path(path).name, Path(path))
    yield from found.items()


def _program(name: str) -> str:
    path = shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"making images needs the program {name} of this machine; install it")
    return path
