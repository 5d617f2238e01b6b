"""The cache on disk, in huggingface_hub's layout (its guide "Understand caching"), so that vLLM finds models offline.

`blobs/` holds files by their hash, `snapshots/COMMIT/` links to them by their names, `refs/BRANCH` names the commit.
Links are made when all blobs are there, the configuration last: a snapshot that is in part there is not to be seen.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.selection import CONFIGS, File
from vllm_operator.report import Reason, is_commit

RESERVE = 2**26
"""Bytes that stay free: links, locks and folders need some."""

SMALL = 2**24

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP})
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Cache:
    """The part of a cache that one repository has. `root` is $HF_HOME/hub."""

    root: Path
    repository: str

    @property
    def folder(self) -> Path:
        """Folder of the repository."""
        return self.root / f"models--{self.repository.replace('/', '--')}"

    def blob(self, file: File) -> Path:
        """Where the content of a file lies."""
        return self.folder / "blobs" / file.digest

    def partial(self, file: File) -> Path:
        """Where it lies until all of it is there."""
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def lock(self, file: File) -> Path:
        """The lock that huggingface_hub takes for a download, too."""
        return self.root / ".locks" / self.folder.name / f"{file.digest}.lock"

    def link(self, file: File, commit: str) -> Path:
        """Where readers look for it."""
        return self.folder / "snapshots" / commit / file.path

    def has(self, file: File, commit: str) -> bool:
        """Whether all of the file is there."""
        return _size(self.blob(file)) == file.size or self.links(file, commit)

    def links(self, file: File, commit: str) -> bool:
        """Whether readers find it."""
        return _size(self.link(file, commit)) == file.size

    def arrived(self, file: File, commit: str) -> int:
        """Bytes of it that are there."""
        return file.size if self.has(file, commit) else min(max(_size(self.partial(file)), 0), file.size)

    def prepare(self) -> None:
        """Make the folders. Raises OSError where the cache cannot be written."""
        for folder in (self.folder / "blobs", self.folder / "snapshots", self.lock(File("", 0)).parent):
            folder.mkdir(parents=True, exist_ok=True)

    def check_space(self, missing: int) -> None:
        """Raises FetchError when `missing` bytes and a reserve do not fit."""
        room = os.statvfs(self.folder)
        free = room.f_bavail * room.f_frsize
        if missing + RESERVE > free:
            message = f"{self.repository} needs {_gib(missing + RESERVE)} more in {self.root}, which has {_gib(free)}"
            raise FetchError(Reason.SPACE, f"{message} free: give the cache more room, or exclude files.")

    def finish(self, files: tuple[File, ...], commit: str, revision: str) -> None:
        """Show the snapshot to readers, then name it by its branch. Writes nothing when that is done already."""
        for file in sorted(files, key=lambda one: one.path in CONFIGS):
            if not self.links(file, commit):
                self._show(file, commit)
        if not is_commit(revision):
            _write(self.folder / "refs" / revision, commit)

    def _show(self, file: File, commit: str) -> None:
        """Link to the blob; on a file system without links, move it, as huggingface_hub does.

        Small files are copied there: more than one name may have the same content.
        """
        link, blob = self.link(file, commit), self.blob(file)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except FileExistsError:  # another fetch was quicker
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if file.size > SMALL:
                blob.replace(link)
            else:
                shutil.copyfile(blob, link)


def check(files: tuple[File, ...], commit: str, revision: str) -> None:
    """Refuse names that lead out of the cache. Raises ValueError: no hub has such a repository."""
    if not is_commit(commit):
        raise ValueError(f"its commit is {commit!r}")
    if not _is_inside(revision):
        raise ValueError(f"its revision is {revision!r}")
    for file in files:
        if not _is_inside(file.path) or not _DIGEST.fullmatch(file.digest) or file.size < 0:
            raise ValueError(f"it lists {file.path!r} of {file.size} bytes with the hash {file.digest!r}")


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _write(path: Path, text: str) -> None:
    """Write a small file so that nobody reads half of it."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
