"""Turns the log of a load generator into numbers. Pure: no socket, no clock, no file."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from msgspec import Struct

__all__ = ("BenchmarkError", "Reply", "bare_numbers", "numbers", "parse_reply", "percentile")


class BenchmarkError(Exception):
    """A server did not do what is measured, so a number would mean nothing."""


class Reply(Struct, frozen=True, kw_only=True):
    """One streamed reply. `arrivals_s` are the times of the events with text. There is at least one."""

    sent_s: float
    arrivals_s: tuple[float, ...]
    text: str
    completion_tokens: int
    prompt_tokens: int | None
    cached_tokens: int | None

    @property
    def first_token_s(self) -> float:
        """Seconds until the first text."""
        return self.arrivals_s[0] - self.sent_s


def parse_reply(sent_s: float, arrivals: Iterable[tuple[float, bytes]], *, max_tokens: int) -> Reply:
    """Read one HTTP response with an event stream in it.

    Tokens are counted by the server's usage. If a server gives none, a reply that was cut at `max_tokens` has that many
    tokens, and any other as many as there were events with text. Raises `BenchmarkError` for a refusal and for a reply
    without its end.
    """
    times, texts, usage, finish_reason, last_s = [], [], None, None, sent_s
    for at_s, event in _events(arrivals):
        last_s = at_s
        if "error" in event:
            raise BenchmarkError(f"the stream ended with an error: {event['error']}")
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            if text := choice["delta"].get("content"):
                times.append(at_s)
                texts.append(text)
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise BenchmarkError("the stream ended before its reply")
    usage = usage or {"completion_tokens": max_tokens if finish_reason == "length" else len(times)}
    return Reply(
        sent_s=sent_s,
        arrivals_s=tuple(times) or (last_s,),
        text="".join(texts),
        completion_tokens=usage["completion_tokens"],
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
    )


def _events(arrivals: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each JSON event, with the time at which its line was complete."""
    pending = b""
    for at_s, piece in _body(arrivals):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield at_s, json.loads(data)


def _body(arrivals: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The pieces of the response's body without transfer coding, with the time at which each was complete."""
    head, buffer = b"", b""
    for at_s, data in arrivals:
        buffer += data
        if not head:
            if b"\r\n\r\n" not in buffer:
                continue
            head, _, buffer = buffer.partition(b"\r\n\r\n")
        if b"chunked" not in head.lower():
            yield at_s, buffer
            buffer = b""
            continue
        while b"\r\n" in buffer:
            size, _, rest = buffer.partition(b"\r\n")
            end = int(size, 16)
            if len(rest) < end + 2:
                break
            yield at_s, rest[:end]
            buffer = rest[end + 2 :]
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise BenchmarkError(f"no reply but {(head or buffer).decode('latin-1') or 'a closed connection'!r}")


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest of `values` that at least `fraction` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def numbers(replies: Sequence[Reply], *, streams: int) -> dict[str, Any]:
    """The numbers of all clients of one measurement. Times are in ms, rates in tokens per second of wall time.

    `decode_tok_per_s` counts only while all streams were receiving text: from the last first text to the first last
    text. It is comparable with the bare limit's generation rate. None if requests waited or never overlapped.
    """
    tokens = sum(reply.completion_tokens for reply in replies)
    seconds = max(reply.arrivals_s[-1] for reply in replies) - min(reply.sent_s for reply in replies)
    first = [reply.first_token_s * 1000 for reply in replies]
    gaps = [(after - before) * 1000 for reply in replies for before, after in pairwise(reply.arrivals_s)] or [0.0]
    return {
        "streams": streams,
        "requests": len(replies),
        "prompt_tokens": sum(reply.prompt_tokens or 0 for reply in replies) or None,
        "cached_tokens": sum(reply.cached_tokens or 0 for reply in replies),
        "completion_tokens": tokens,
        "seconds": round(seconds, 3),
        "tok_per_s": round(tokens / seconds, 1),
        "decode_tok_per_s": _decode_rate(replies) if len(replies) == streams else None,
        "first_token_p50_ms": round(statistics.median(first), 1),
        "first_token_max_ms": round(max(first), 1),
        "gap_p50_ms": round(percentile(gaps, 0.5), 1),
        "gap_p99_ms": round(percentile(gaps, 0.99), 1),
        "gap_max_ms": round(max(gaps), 1),
    }


def _decode_rate(replies: Sequence[Reply]) -> float | None:
    begin_s = max(reply.arrivals_s[0] for reply in replies)
    end_s = min(reply.arrivals_s[-1] for reply in replies)
    if end_s <= begin_s:
        return None
    # The first event has the first token. A later event may have several, so each counts as their average.
    tokens = sum(
        sum(begin_s < at_s <= end_s for at_s in reply.arrivals_s[1:])
        * (reply.completion_tokens - 1)
        / max(1, len(reply.arrivals_s) - 1)
        for reply in replies
    )
    return round(tokens / (end_s - begin_s), 1)


def bare_numbers(output: str, *, requests: int, prompts_read: int) -> dict[str, Any]:
    """The speed of `requests` replies in waves as wide as the one that `llama-batched-bench` measured.

    `output` is its output in JSON. `prompts_read` is the number of waves that read their prompts; a prompt that all
    share is read in one. Raises `BenchmarkError` if there is no result.
    """
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise BenchmarkError(f"llama-batched-bench printed no result: {output!r}")
    wave = json.loads(line)
    seconds = prompts_read * wave["t_pp"] + requests / wave["pl"] * wave["t_tg"]
    tokens = requests * wave["tg"]
    return {
        "streams": wave["pl"],
        "requests": requests,
        "completion_tokens": tokens,
        "seconds": round(seconds, 3),
        "tok_per_s": round(tokens / seconds, 1),
        "decode_tok_per_s": round(wave["speed_tg"], 1),
        "prefill_tok_per_s": round(wave["speed_pp"], 1),
    }
