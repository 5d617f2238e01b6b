"""OCI image layouts as tar files, written with the standard library.

Formats: https://github.com/opencontainers/image-spec (layout, manifest, config, layer).
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

_MEDIA = "application/vnd.oci.image."
# Every file has it, so that the same content is the same layer.
_EPOCH = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer: its uncompressed tar file, the digest over it and its size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Config:
    """How containers of an image start where the pod does not say otherwise."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


class LayerWriter:
    """Writes the tar file of a layer; parent folders are added as needed, and every file belongs to root."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: set[str] = set()
        self._files: set[str] = set()
        self._digest = hashlib.sha256()
        self._size = 0
        self._file: IO[bytes] = path.open("wb")
        self._tar = tarfile.open(fileobj=cast("IO[bytes]", self), mode="w|", bufsize=1 << 20)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        self._file.close()

    def write(self, data: bytes) -> int:
        """Take what the tar format makes of the files."""
        self._digest.update(data)
        self._size += len(data)
        return self._file.write(data)

    @property
    def blob(self) -> Blob:
        """The finished layer."""
        return Blob(self._path, self._digest.hexdigest(), self._size)

    def folder(self, target: str, mode: int = 0o755) -> None:
        """Add a folder, and the ones above it."""
        name = target.strip("/")
        if not name or name in self._folders:
            return
        self.folder(name.rpartition("/")[0])
        self._folders.add(name)
        entry = _entry(name, mode)
        entry.type = tarfile.DIRTYPE
        self._tar.addfile(entry)

    def link(self, target: str, points_to: str) -> None:
        """Add a symbolic link."""
        entry = self._child(target, 0o777)
        entry.type, entry.linkname = tarfile.SYMTYPE, points_to
        self._tar.addfile(entry)

    def text(self, target: str, content: str, mode: int = 0o644) -> None:
        """Add a file with `content`."""
        data = content.encode()
        entry = self._child(target, mode)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def file(self, target: str, source: Path) -> None:
        """Add a file of this machine, links followed; readable by everyone, executable where it is here."""
        if target in self._files:
            return
        self._files.add(target)
        found = source.stat()
        entry = self._child(target, 0o755 if found.st_mode & 0o100 else 0o644)
        entry.size = found.st_size
        with source.open("rb") as handle:
            self._tar.addfile(entry, handle)

    def tree(self, target: str, source: Path, left_out: Iterable[str] = ()) -> None:
        """Add a folder of this machine and all below it; symbolic links are kept.

        Args:
            target: path in the image.
            source: folder here.
            left_out: names of files and folders that are not taken, wherever they are.
        """
        skipped = frozenset(left_out)
        self.folder(target)
        for path in sorted(source.iterdir()):
            name = f"{target}/{path.name}"
            if path.name in skipped:
                continue
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.tree(name, path, skipped)
            else:
                self.file(name, path)

    def _child(self, target: str, mode: int) -> tarfile.TarInfo:
        name = target.strip("/")
        self.folder(name.rpartition("/")[0])
        return _entry(name, mode)


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = mode, _EPOCH
    return entry


def write_layout(
    stream: IO[bytes], names: Iterable[str], config: Config, layers: Iterable[Blob], left_out: Container[str] = ()
) -> None:
    """Write an image layout with one image to `stream`, as a tar file.

    Args:
        stream: a file or a pipe.
        names: what the image is called (registry/repository:tag).
        config: how its containers start.
        layers: from the lowest to the topmost.
        left_out: digests of layers that whoever reads it has unpacked already; they are named only.
    """
    blobs = list(layers)
    description = json.dumps(_config(config, blobs)).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}manifest.v1+json",
        "config": _descriptor("config.v1+json", _sha256(description), len(description)),
        "layers": [_descriptor("layer.v1.tar", blob.digest, blob.size) for blob in blobs],
    }
    text = json.dumps(manifest).encode()
    entries = [_index_entry(name, text) for name in names]
    index = {"schemaVersion": 2, "mediaType": f"{_MEDIA}index.v1+json", "manifests": entries}
    with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20) as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for content in (description, text):
            _add(tar, f"blobs/sha256/{_sha256(content)}", content)
        for digest, blob in {blob.digest: blob for blob in blobs if blob.digest not in left_out}.items():
            tar.add(blob.path, arcname=f"blobs/sha256/{digest}")


def _index_entry(name: str, manifest: bytes) -> dict[str, Any]:
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    return _descriptor("manifest.v1+json", _sha256(manifest), len(manifest)) | {
        "annotations": annotations,
        "platform": {"architecture": "amd64", "os": "linux"},
    }


def _config(config: Config, blobs: Iterable[Blob]) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.command),
            "Env": [f"{name}={value}" for name, value in config.environment.items()],
            "User": config.user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{blob.digest}" for blob in blobs]},
    }


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_MEDIA}{kind}", "digest": f"sha256:{digest}", "size": size}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
