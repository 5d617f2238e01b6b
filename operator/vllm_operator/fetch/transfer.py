"""Bringing files: resumed where an earlier run ended, checked against their hashes, several at a time.

What two runs write into the same partial file is the same: everyone writes the file's bytes at their places. So a
file system whose locks do not hold costs time, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import httpx2
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock

from vllm_operator.fetch.cache import Cache
from vllm_operator.fetch.failures import FetchError, explain
from vllm_operator.fetch.hub import CHUNK, WAITS, Hub, passes, wait_before
from vllm_operator.fetch.selection import File
from vllm_operator.report import Reason

AT_ONCE = 8
"""Files at a time, as huggingface_hub brings them."""

LOCK_WAIT = 10.0
STALE = 60.0
"""Seconds after which a lock is passed over whose file does not grow: its holder is gone or stuck."""

_SHA256_DIGITS = 64


class _DamagedError(Exception):
    """What arrived is not the file."""


class _Stopped(Exception):  # noqa: N818 - not an error of its own
    """Another file failed."""


class _Partial:
    """The part of a file that is on disk, and the hash of it. Reads what an earlier run left there."""

    def __init__(self, stream: BinaryIO, file: File) -> None:
        self.stream, self.file = stream, file
        self._start()
        if os.fstat(stream.fileno()).st_size > file.size:
            self.restart()
        while chunk := stream.read(CHUNK):
            self.digest.update(chunk)
            self.length += len(chunk)

    def _start(self) -> None:
        """The hash of nothing: large files are known by their own, small ones by that of their object in git."""
        if len(self.file.digest) == _SHA256_DIGITS:
            self.digest = hashlib.sha256()
        else:
            self.digest = hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)
        self.length = 0

    def restart(self) -> None:
        """Forget what is there."""
        self.stream.seek(0)
        self.stream.truncate()
        self._start()

    def append(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.stream.write(chunk)
        self.digest.update(chunk)
        self.length += len(chunk)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there."""
        return self.length >= self.file.size

    @property
    def is_sound(self) -> bool:
        """Whether they are the file's."""
        return self.length == self.file.size and self.digest.hexdigest() == self.file.digest


@dataclass(frozen=True, slots=True)
class Transfer:
    """Brings files of one commit into a cache."""

    hub: Hub
    cache: Cache
    commit: str
    stopped: threading.Event = field(default_factory=threading.Event)

    def bring(self, files: Sequence[File]) -> None:
        """All of the files. Raises FetchError for the first that fails; what arrived of the others stays."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
            running = [pool.submit(self._bring, file) for file in files]
            errors = [one.exception() for one in running]
        for error in errors:
            if isinstance(error, OSError | httpx2.HTTPError):
                raise explain(error, self.hub.request) from error
            if error and not isinstance(error, _Stopped):
                raise error

    def _bring(self, file: File) -> None:
        try:
            with self._alone_with(file):
                if not self.cache.has(file, self.commit):
                    self._persistently(file)
        except BaseException:
            self.stopped.set()
            raise

    @contextmanager
    def _alone_with(self, file: File) -> Iterator[None]:
        """Hold the lock of the file, unless its holder makes no progress or the file system has no locks."""
        with ExitStack() as held:
            arrived, since = -1, time.monotonic()
            while time.monotonic() - since < STALE:
                self._check()
                try:
                    held.enter_context(WeakFileLock(self.cache.lock(file), timeout=LOCK_WAIT))
                    break
                except Timeout:
                    now = self.cache.arrived(file, self.commit)
                    arrived, since = now, (since if now == arrived else time.monotonic())
                except OSError:
                    break
            yield

    def _persistently(self, file: File) -> None:
        """Bring a file in spite of what passes: as many failures in a row as there are waits, and one damage."""
        attempt, damaged = 0, False
        while True:
            before = self.cache.arrived(file, self.commit)
            try:
                return self._attempt(file)
            except _DamagedError as error:
                if damaged:
                    raise FetchError(Reason.HUB, self._damage(file)) from error
                damaged = True
            except Exception as error:
                attempt = 0 if self.cache.arrived(file, self.commit) > before else attempt
                if not passes(error) or attempt == len(WAITS):
                    raise
                self.stopped.wait(wait_before(attempt, error))
                attempt += 1

    def _damage(self, file: File) -> str:
        return (
            f"{file.path} of {self.hub.repository} arrived damaged twice: its content is not what "
            f"{self.hub.request.hub} lists; try again later, or look at the proxy or mirror on the way."
        )

    def _attempt(self, file: File) -> None:
        """Bring what is missing of a file, then let it be seen."""
        path = self.cache.partial(file)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # the umask decides, as for any file of the cache
        with open(descriptor, "r+b") as stream:  # noqa: PTH123 - it is open already
            partial = _Partial(stream, file)
            while not partial.is_whole:
                self._receive(partial)
            stream.flush()
            os.fsync(descriptor)
        if partial.is_sound:
            with suppress(FileNotFoundError):  # another run was quicker
                path.replace(self.cache.blob(file))
        else:
            path.unlink(missing_ok=True)
        if not self.cache.has(file, self.commit):
            raise _DamagedError

    def _receive(self, partial: _Partial) -> None:
        """The answer to one request for the rest of a file."""
        self._check()
        before = partial.length
        with self.hub.stream(partial.file, self.commit, before) as (first, chunks):
            if first < before:
                partial.restart()
            for chunk in chunks:
                self._check()
                partial.append(chunk)
                if partial.length > partial.file.size:
                    break
        if partial.length == before:
            raise httpx2.RemoteProtocolError("it sent nothing")

    def _check(self) -> None:
        if self.stopped.is_set():
            raise _Stopped
