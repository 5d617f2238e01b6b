"""`make sizing-report`: every measured start beside its prediction, and the errors."""

from __future__ import annotations

import sys

from sizing.points import FAILURES, FORCED, Point, allowed, points

COLUMNS = (("point", -36), ("weights", 9), ("loaded", 9), ("KV low", 9), ("KV high", 9), ("measured", 10), ("error", 8))
TOKENS = (("tokens", 11), ("reported", 11))
HEAD = "".join(f"{name:{'<' if width < 0 else '>'}{abs(width)}}" for name, width in (*COLUMNS, *TOKENS)) + "  verdict"


def tokens(one: Point) -> str:
    """Tokens that the reported KV cache holds by our arithmetic."""
    if one.kv_bytes is None or not one.started:
        return "-"
    length = one.answer.max_length or 1
    return f"{one.stage.pool.tokens(one.kv_bytes, length):,}"


def line(one: Point) -> str:
    """One point."""
    loaded = one.measured.get("weights_gib_exact", one.measured.get("weights_gib"))
    kv = one.kv_bytes
    error = one.error
    reported = one.measured.get("kv_tokens")
    marks = ", ".join(reason.code for reason in one.answer.reasons)
    return (
        f"{one.name:<36}{one.weights:>9.3f}{f'{loaded:.3f}' if loaded else '-':>9}{one.low:>9.2f}{one.high:>9.2f}"
        f"{f'{kv / 2**30:.2f}' if kv is not None else '-':>10}{f'{error:+.2f}' if error is not None else '-':>8}"
        f"{tokens(one):>11}{f'{reported:,}' if reported else '-':>11}  {one.answer.verdict} {marks}"
    )


def main() -> int:
    """Print the table; 1 where a target is missed."""
    print(HEAD)
    for one in points():
        print(line(one))
    started = [one for one in points() if one.started and one.error is not None]
    errors = {one.name: abs(one.error or 0.0) for one in started}
    worst = max(errors, key=lambda name: errors[name])
    beyond = [one.name for one in started if errors[one.name] > allowed(one)]
    outside = [one.name for one in started if one.kv_bytes and not one.low <= one.kv_bytes / 2**30 <= one.high]
    wrong = [one.name for one in points() if not one.started and not fails_rightly(one)]
    falsely = [one.name for one in started if one.answer.verdict == "Refused"]
    print(f"\nKV cache: mean absolute error {sum(errors.values()) / len(errors):.3f} GiB over {len(errors)} starts, ")
    print(f"  worst {errors[worst]:.2f} GiB ({worst}); beyond the target: {beyond or 'none'}")
    print(f"  outside the band: {outside or 'none'} ({', '.join(sorted(FORCED))}: runner forced by the environment)")
    print(f"failures not refused for their reason: {wrong or 'none'}; starts refused: {falsely or 'none'}")
    return 1 if beyond or wrong or falsely else 0


def fails_rightly(one: Point) -> bool:
    """Whether a start that failed is refused for a reason that says why."""
    codes = {reason.code for reason in one.answer.reasons}
    return one.answer.verdict == "Refused" and bool(codes & FAILURES.get(one.name, frozenset()))


if __name__ == "__main__":
    sys.exit(main())
