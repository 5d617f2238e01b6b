"""Repositories of the hub: folders under commits, commits under names of branches and tags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".model"})
"""What the hub keeps outside git, as the .gitattributes of its new repositories say."""

LFS_SIZE = 10 * 2**20
"""Bytes from which on the hub takes no file into git."""


class Access(Enum):
    """What the hub answers to a request for a repository's files."""

    ALLOWED = "allowed"
    HIDDEN = "hidden"  # as if it did not exist
    GATED = "gated"


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    path: str
    content: Path

    @property
    def size(self) -> int:
        return self.content.stat().st_size

    @property
    def is_lfs(self) -> bool:
        return Path(self.path).suffix in LFS_SUFFIXES or self.size > LFS_SIZE

    @cached_property
    def sha256(self) -> str:
        with self.content.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @cached_property
    def blob(self) -> str:
        """Its id in git: of the content, or of the pointer that stands for it."""
        content = self.pointer if self.is_lfs else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds in place of a large file."""
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob

    def described(self) -> dict[str, Any]:
        """Its entry in a listing of the tree."""
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        entry = {"type": "file", "path": self.path, "size": self.size, "oid": self.blob}
        return {**entry, "lfs": lfs} if self.is_lfs else entry

    def sibling(self, *, blobs: bool) -> dict[str, Any]:
        """Its entry in the description of the model."""
        if not blobs:
            return {"rfilename": self.path}
        lfs = {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        entry = {"rfilename": self.path, "size": self.size, "blobId": self.blob}
        return {**entry, "lfs": lfs} if self.is_lfs else entry


@dataclass(frozen=True)
class Commit:
    """The files of one commit, by path."""

    sha: str
    files: dict[str, StoredFile]

    @classmethod
    def of(cls, folder: Path) -> Commit:
        """The content of a folder; its id is a hash of all that is in it."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {name: StoredFile(name, path) for path in paths for name in [path.relative_to(folder).as_posix()]}
        listing = "".join(f"{name} {file.etag}\n" for name, file in files.items())
        return cls(hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest(), files)


@dataclass
class Repository:
    """A model repository.

    With a `token` only requests with it read the files; a `gated` one is listed to everybody all the same, another
    one exists for nobody else.
    """

    name: str
    gated: bool = False
    token: str = ""
    commits: dict[str, Commit] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def add(self, folder: Path, revision: str) -> Commit:
        """Let the revision be what the folder holds now."""
        commit = Commit.of(folder)
        self.commits[commit.sha] = commit
        self.revisions[revision] = commit.sha
        return commit

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, or itself."""
        return self.commits.get(self.revisions.get(revision, revision))

    def access(self, token: str, *, files: bool) -> Access:
        """Whether somebody with the token may see it, or read its files."""
        if not self.token or token == self.token:
            return Access.ALLOWED
        if not self.gated:
            return Access.HIDDEN
        return Access.GATED if files else Access.ALLOWED

    def described(self, commit: Commit, *, blobs: bool) -> dict[str, Any]:
        """The answer to a request for the model."""
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": commit.sha,
            "private": bool(self.token) and not self.gated,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "tags": [],
            "siblings": [file.sibling(blobs=blobs) for file in commit.files.values()],
        }
