"""A model, brought into a cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from vllm_operator.fetch import cache as layout
from vllm_operator.fetch.cache import Cache
from vllm_operator.fetch.choice import check_described, choose
from vllm_operator.fetch.failures import explain
from vllm_operator.fetch.hub import Hub, Listing
from vllm_operator.fetch.selection import File, Patterns, Selection
from vllm_operator.fetch.transfer import Transfer
from vllm_operator.report import Fetched

Watch = Callable[[Callable[[], int], int], AbstractContextManager[None]]
"""Shows progress while it is open, from a function that counts the bytes that are there, and all that will be."""


def fetch(hub: Hub, root: Path, patterns: Patterns, watch: Watch) -> Fetched:
    """Bring what vLLM needs of the model into the cache whose hub folder is `root`. Raises FetchError."""
    cache, listing = Cache(root, hub.repository), look_up(hub)

    def read(file: File) -> bytes:
        kept = cache.link(file, listing.commit)
        return kept.read_bytes() if cache.links(file, listing.commit) else hub.read(file, listing.commit)

    selection = choose(listing.files, patterns, read, hub.repository)
    check_described(selection, patterns, hub.repository)
    try:
        _bring(Transfer(hub, cache, listing.commit), selection, watch)
        cache.finish(selection.files, listing.commit, hub.revision)
    except OSError as error:
        raise explain(error, hub.request) from error
    return Fetched(listing.commit, selection.bytes)


def look_up(hub: Hub) -> Listing:
    """What the repository holds. Raises FetchError, also for names that would lead out of a cache."""
    listing = hub.listing()
    try:
        layout.check(listing.files, listing.commit, hub.revision)
    except ValueError as error:
        raise explain(error, hub.request) from error
    return listing


def _bring(transfer: Transfer, selection: Selection, watch: Watch) -> None:
    cache, commit = transfer.cache, transfer.commit

    def arrived() -> int:
        return sum(cache.arrived(file, commit) for file in selection.files)

    missing = [file for file in selection.files if not cache.has(file, commit)]
    if not missing:
        return
    cache.prepare()
    cache.check_space(selection.bytes - arrived())
    with watch(arrived, selection.bytes):
        transfer.bring(missing)
