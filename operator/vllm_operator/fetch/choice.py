"""The files of a model that are brought or counted: a selection that its index agrees with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vllm_operator.fetch.content import parse_object
from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.selection import (
    CONFIGS,
    FORMATS,
    File,
    Patterns,
    Selection,
    describes_itself,
    index_of,
    names_in_index,
    narrowed,
    select,
)
from vllm_operator.report import Reason

Read = Callable[[File], bytes]


def choose(files: Iterable[File], patterns: Patterns, read: Read, where: str) -> Selection:
    """What vLLM needs among the files of a repository or folder `where`.

    Raises FetchError when no weights are left, or one that the index names is not there.
    """
    selection = select(files, patterns)
    index = index_of(selection)
    if index:
        selection = _as_indexed(selection, index, read, where)
    if not selection.weights:
        message = f"{where} has no weights that vLLM loads ({', '.join(FORMATS)})"
        raise FetchError(Reason.WEIGHTS, f"{message}{_way_out(patterns)}.")
    return selection


def check_described(selection: Selection, patterns: Patterns, where: str) -> None:
    """Raises FetchError for files that do not say what the model is."""
    if not describes_itself(selection):
        message = f"{where} has none of {', '.join(CONFIGS)}, one of which vLLM reads"
        raise FetchError(Reason.CONFIG_MISSING, f"{message}{_way_out(patterns)}.")


def _as_indexed(selection: Selection, index: File, read: Read, where: str) -> Selection:
    try:
        named = names_in_index(parse_object(read(index)))
    except ValueError as error:
        message = f"{index.path} of {where} cannot be used: {error}; repair it, or exclude it."
        raise FetchError(Reason.WEIGHTS, message) from error
    missing = sorted(named - {file.name for file in selection.weights if not file.folder})
    if missing:
        rest = f" and {len(missing) - 1} more" if missing[1:] else ""
        message = f"{where} lacks {missing[0]}{rest}, which {index.path} names: add what is missing, or exclude less."
        raise FetchError(Reason.WEIGHTS, message)
    return narrowed(selection, named)


def _way_out(patterns: Patterns) -> str:
    """The rest of a sentence on something that is not there."""
    if patterns.include or patterns.exclude:
        return ", among the files that the patterns leave: change --include or --exclude"
    return ": name a repository or folder that has"
