"""Sizing in words: short ones for a status, a table with bars for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_operator.sizing.cautions import cautions
from vllm_operator.sizing.types import Band, ParameterCount, PerGPU, Reason, Sizing, Verdict

if TYPE_CHECKING:
    from vllm_operator.sizing.search import Search

LONGEST = 1024
"""Characters of an explanation in a status."""

BAR = 48
SHOWN = 8


def clipped(text: str, limit: int = LONGEST) -> str:
    """The text, cut at a word and marked where it is too long."""
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0] + "…"


def band(value: Band, unit: str = "") -> str:
    """`3.1 to 3.9 GiB`, or one number where both ends look alike."""
    low, high = f"{value.low:,.1f}", f"{value.high:,.1f}"
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def shape(answer: Sizing) -> str:
    """`2 x A100-80 (TP 2)`."""
    name = answer.gpu.name if answer.gpu else "GPU"
    split = f"TP {answer.tensor}" + (f" x PP {answer.pipeline}" if answer.pipeline > 1 else "")
    split += ", expert parallel" if answer.expert else ""
    split += f", {answer.nodes} nodes" if answer.nodes > 1 else ""
    return f"{answer.gpus} x {name} ({split})"


def choice(search: Search, answer: Sizing) -> str:
    """Why this shape was chosen and what it holds."""
    per = answer.per_gpu
    if per is None:
        return ""
    used = (
        f"{shape(answer)}: of {per.capacity:.2f} GiB a GPU, weights take {per.weights:.2f}{_drafting(per)}, "
        f"activations {band(per.activations)}, CUDA "
        f"graphs {band(per.graphs)}, the rest {band(per.other)}; {band(per.kv_cache, ' GiB')} are left for the KV cache"
    )
    parts = [used + _holds(answer) + "."]
    if answer.verdict is Verdict.TIGHT:
        parts.append("It fits on the optimistic bound only.")
    if not search.facts.known and not isinstance(search.request.model, ParameterCount):
        arranged = "from the bytes of its files" if search.facts.total_bytes else "as if it were arranged like Llama"
        parts.append(f"The architecture {search.facts.architecture} is not known here: it was sized {arranged}.")
    parts += [text for text in (ties(search, answer), *cautions(search.request, search.facts, answer)) if text]
    return clipped(" ".join(parts))


def _drafting(per: PerGPU) -> str:
    return f" ({per.draft:.2f} of it the draft model's)" if per.draft else ""


def _holds(answer: Sizing) -> str:
    if answer.kv_tokens is None or not answer.max_length:
        return ""
    tokens, requests = f"{answer.kv_tokens.low:,.0f}", f"{answer.max_concurrency or 0:,.1f}"
    return f", {tokens} tokens or {requests} requests of {answer.max_length:,} tokens at once"


def ties(search: Search, answer: Sizing) -> str:
    """What was as cheap, or why a smaller count was not taken."""
    if answer.gpu is None:
        return ""
    cost = answer.gpu.weight * answer.gpus
    others = [offer.gpu.name for offer in search.request.offers if offer.gpu is not answer.gpu]
    if not others:
        return ""
    return f"Chosen among {len(others) + 1} products as the cheapest that fits (relative cost {cost:g})."


def refusal(reasons: tuple[Reason, ...], nearest: str) -> str:
    """Why not, and the nearest fit."""
    text = " ".join(dict.fromkeys(reason.message for reason in reasons[:3]))
    return clipped(f"{text} {nearest}".strip())


def bar(per: PerGPU, width: int = BAR) -> str:
    """One GPU's memory as a bar: W weights, a activations, g graphs, o the rest, K cache, . reserve."""
    parts = (
        ("W", per.weights),
        ("a", per.activations.high),
        ("g", per.graphs.high),
        ("o", per.other.high),
        ("K", per.kv_cache.low),
        (".", per.reserve),
    )
    scale = max(per.capacity, sum(size for _, size in parts)) or 1.0
    drawn, before = "", 0.0
    for letter, size in parts:
        before += size
        drawn += letter * (round(before / scale * width) - len(drawn))
    return drawn.ljust(width, ".")[:width]


def table(answer: Sizing, *, wide: bool = False) -> str:
    """Several lines for a terminal: verdict, bar, terms, what was rejected (all of it when `wide`), nearest fit."""
    lines = [f"{answer.verdict}: {shape(answer)}" if answer.gpus else str(answer.verdict)]
    if answer.per_gpu:
        lines += ["", *_terms(answer.per_gpu)]
    lines += [""] + [f"{reason.code}: {reason.message}" for reason in answer.reasons] if answer.reasons else []
    if answer.verdict is not Verdict.REFUSED:
        lines += ["", answer.explanation]
    if answer.rejected:
        lines += ["", "Not taken:"]
        shown = answer.rejected if wide else answer.rejected[:SHOWN]
        lines += [f"  {one.candidate}: {one.reason.code}: {one.reason.message}" for one in shown]
        if len(shown) < len(answer.rejected):
            lines.append(f"  and {len(answer.rejected) - len(shown)} more (-o wide shows them)")
    if answer.nearest_fit:
        lines += ["", f"Nearest fit: {answer.nearest_fit}"]
    return "\n".join(lines)


def _terms(per: PerGPU) -> list[str]:
    rows = (
        ("W weights", f"{per.weights:.2f}"),
        ("a activations", band(per.activations)),
        ("g CUDA graphs", band(per.graphs)),
        ("o other", band(per.other)),
        ("K KV cache", band(per.kv_cache)),
        (". reserve", f"{per.reserve:.2f}"),
        ("  capacity", f"{per.capacity:.2f}"),
    )
    return [f"  [{bar(per)}]", *(f"  {name:<15}{value:>16} GiB" for name, value in rows)]
