"""A model, brought into a cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from vllm_operator.fetch import cache as layout
from vllm_operator.fetch.cache import Cache
from vllm_operator.fetch.content import parse_object
from vllm_operator.fetch.failures import FetchError, explain
from vllm_operator.fetch.hub import Hub, Listing
from vllm_operator.fetch.selection import (
    Patterns,
    Selection,
    describes_itself,
    index_of,
    names_in_index,
    narrowed,
    select,
)
from vllm_operator.fetch.transfer import Transfer
from vllm_operator.report import Fetched, Reason

Watch = Callable[[Callable[[], int], int], AbstractContextManager[None]]
"""Shows progress while it is open, from a function that counts the bytes that are there, and all that will be."""


def fetch(hub: Hub, root: Path, patterns: Patterns, watch: Watch) -> Fetched:
    """Bring what vLLM needs of the model into the cache whose hub folder is `root`. Raises FetchError."""
    cache, listing = Cache(root, hub.repository), look_up(hub)
    selection = choose(hub, listing, patterns, cache)
    if not describes_itself(selection):
        raise FetchError(Reason.CONFIG_MISSING, f"{hub.repository} has no config.json{_patterns_say(patterns)}.")
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


def choose(hub: Hub, listing: Listing, patterns: Patterns, cache: Cache | None = None) -> Selection:
    """The files to bring; an index that is in the cache is read there. Raises FetchError where no weights are left."""
    selection = select(listing.files, patterns)
    index = index_of(selection)
    if index:
        kept = cache.link(index, listing.commit) if cache and cache.links(index, listing.commit) else None
        content = kept.read_bytes() if kept else hub.read(index, listing.commit)
        selection = by_index(selection, content, hub.repository, index.path)
    if not selection.weights:
        message = f"{hub.repository} has no weights that vLLM loads (.safetensors, .bin, .pt, .gguf)"
        raise FetchError(Reason.WEIGHTS, f"{message}{_patterns_say(patterns)}.")
    return selection


def by_index(selection: Selection, content: bytes, repository: str, path: str) -> Selection:
    """The selection with the weights that its index names. Raises FetchError where one of them is not there."""
    try:
        named = names_in_index(parse_object(content))
    except ValueError as error:
        raise FetchError(Reason.WEIGHTS, f"{path} of {repository} cannot be used: {error}.") from error
    missing = sorted(named - {file.name for file in selection.weights if not file.folder})
    if missing:
        message = f"{repository} lacks {missing[0]} and {len(missing) - 1} more" if missing[1:] else ""
        message = message or f"{repository} lacks {missing[0]}"
        raise FetchError(Reason.WEIGHTS, f"{message}, which its {path} names: upload it, or let no pattern exclude it.")
    return narrowed(selection, named)


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


def _patterns_say(patterns: Patterns) -> str:
    """The rest of a sentence on something that is not there."""
    return " among the files that the patterns leave: change --include or --exclude" if _any(patterns) else ""


def _any(patterns: Patterns) -> bool:
    return bool(patterns.include or patterns.exclude)
