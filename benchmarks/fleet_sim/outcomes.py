"""What clients have seen, as numbers. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct

__all__ = ("Gaps", "Seen", "of_callers", "percentiles", "summary")

_GAP_STEP: Final = 1.02
"""Two gaps that differ by less than 2 % count as equal."""


class Seen(Struct, kw_only=True):
    """One request of a client, with all its attempts. Times are in seconds since the beginning; None has not happened.

    `refusal` is why the last attempt was refused, "lost" for a host that has gone, "" for none. `first_refusal` is the
    same for the first attempt that was.
    """

    sent_s: float
    prompt_tokens: int
    reply_tokens: int
    caller: str = ""
    host: int = -1
    attempts: int = 1
    first_refusal: str = ""
    began_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    cached_tokens: int = 0
    refusal: str = ""


class Gaps:
    """Times between two tokens of a reply, by their size."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.is_counting: bool = True

    def add(self, gap_s: float, times: int) -> None:
        """Count a gap that so many replies had."""
        if self.is_counting:
            self._counts[round(np.log(max(gap_s, 1e-6)) / np.log(_GAP_STEP))] += times

    def percentile(self, fraction: float) -> float:
        """The gap that at least `fraction` of all do not exceed, in seconds."""
        wanted, seen = fraction * self._counts.total(), 0
        for size, times in sorted(self._counts.items()):
            seen += times
            if seen >= wanted:
                return float(_GAP_STEP**size)
        return 0.0


def percentiles(values: Iterable[float], *fractions: float) -> list[float | None]:
    """The smallest values that at least so large fractions of all do not exceed. None where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return [None for _ in fractions]
    return [ordered[max(0, int(np.ceil(fraction * len(ordered))) - 1)] for fraction in fractions]


def summary(
    seen: Sequence[Seen],
    gaps: Gaps,
    *,
    from_s: float,
    sent_until_s: float,
    until_s: float,
    busy: Sequence[float],
    steps: int,
) -> dict[str, Any]:
    """The numbers of all requests that were sent from `from_s` to `sent_until_s`, and of all that ended by `until_s`.

    `busy` are the seconds in which each host computed, from `from_s` on. Rates are for all hosts together. Times are in
    milliseconds, and for refused requests there are none.
    """
    sent = [each for each in seen if from_s <= each.sent_s <= sent_until_s]
    ended = [each for each in seen if each.ended_s is not None and each.ended_s >= from_s]
    first = [each.first_token_s - each.sent_s for each in sent if each.first_token_s is not None]
    begun = [each.began_s - each.sent_s for each in sent if each.began_s is not None]
    prompts = sum(each.prompt_tokens for each in ended)
    loads = Counter(each.host for each in sent if each.host >= 0)
    seconds = until_s - from_s
    reasons = Counter(each.refusal for each in sent if each.refusal)
    p50, p99 = percentiles(first, 0.5, 0.99)
    wait50, wait99 = percentiles(begun, 0.5, 0.99)
    return {
        "requests": len(sent),
        "sent_per_s": round(len(sent) / (sent_until_s - from_s), 3),
        "ended_per_s": round(len(ended) / seconds, 3),
        "tok_per_s": round(sum(each.reply_tokens for each in ended) / seconds, 1),
        "first_token_p50_ms": _ms(p50),
        "first_token_p99_ms": _ms(p99),
        "begin_p50_ms": _ms(wait50),
        "begin_p99_ms": _ms(wait99),
        "gap_p50_ms": _ms(gaps.percentile(0.5)),
        "gap_p99_ms": _ms(gaps.percentile(0.99)),
        "failed": round(sum(reasons.values()) / max(1, len(sent)), 4),
        "failed_by": dict(sorted(reasons.items())),
        "refused": round(sum(bool(each.first_refusal) for each in sent) / max(1, len(sent)), 4),
        "refused_by": dict(sorted(Counter(each.first_refusal for each in sent if each.first_refusal).items())),
        "undecided": round(sum(not each.refusal and each.began_s is None for each in sent) / max(1, len(sent)), 4),
        "attempts_each": round(sum(each.attempts for each in sent) / max(1, len(sent)), 3),
        "cached": round(sum(each.cached_tokens for each in ended) / max(1, prompts), 4),
        "busy": round(sum(busy) / len(busy) / seconds, 3),
        "busy_most": round(max(busy) / seconds, 3),
        "busy_least": round(min(busy) / seconds, 3),
        "most_to_mean": round(max(loads.values(), default=0) * len(busy) / max(1, loads.total()), 2),
        "steps": steps,
    }


def of_callers(seen: Sequence[Seen], *, from_s: float, greedy: str) -> dict[str, Any]:
    """How the caller `greedy` fared, and how all others did together."""
    found: dict[str, Any] = {}
    for who in ("greedy", "others"):
        own = [each for each in seen if each.sent_s >= from_s and (each.caller == greedy) == (who == "greedy")]
        p50, p99 = percentiles((each.first_token_s - each.sent_s for each in own if each.first_token_s), 0.5, 0.99)
        found[f"{who}_requests"] = len(own)
        found[f"{who}_failed"] = round(sum(bool(each.refusal) for each in own) / max(1, len(own)), 4)
        found[f"{who}_first_token_p50_ms"], found[f"{who}_first_token_p99_ms"] = _ms(p50), _ms(p99)
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
