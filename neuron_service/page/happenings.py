"""What has happened on a host, in words: the last requests without their content, and the last errors. Pure."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from neuron_lib.sizes import format_rounded
from neuron_lib.types import FinishReason, HostEvent, ModelEvent, RejectionEvent, ReplyEvent, ReplyOutcome, RestartEvent
from neuron_service.page.words import ago

__all__ = ("Request", "Trouble", "requests_of", "troubles_of")

_MOST_REQUESTS = 12
_MOST_TROUBLES = 6
_ENDS = {
    FinishReason.STOP: "finished",
    FinishReason.LENGTH: "cut at its limit",
    FinishReason.TOOL_CALLS: "calls a tool",
}


class Request(Struct, frozen=True, kw_only=True):
    """A request that was answered. Has nothing that a client or a model has written. "" is what is not known."""

    id: str
    when: str
    model_id: str
    end: str
    tokens: str
    first: str
    speed: str
    total: str


class Trouble(Struct, frozen=True, kw_only=True):
    """Something that went wrong with a model."""

    id: str
    when: str
    model_id: str
    words: str


def requests_of(events: Iterable[HostEvent], *, now_s: float) -> tuple[Request, ...]:
    """The last requests that had a reply, newest first. `now_s` is in seconds of Unix time, like the events."""
    replies = [event for event in events if isinstance(event, ReplyEvent)]
    return tuple(_request(event, now_s) for event in reversed(replies[-_MOST_REQUESTS:]))


def troubles_of(events: Iterable[HostEvent], *, now_s: float) -> tuple[Trouble, ...]:
    """The last errors, newest first: crashes, loads that failed, and requests that were refused or failed."""
    found = list(_troubles(events, now_s))
    return tuple(reversed(found[-_MOST_TROUBLES:]))


def _request(event: ReplyEvent, now_s: float) -> Request:
    is_measured = event.decode_ms > 0 and event.completion_tokens > 1
    cached = f" ({event.cached_tokens} cached)" if event.cached_tokens else ""
    return Request(
        id=event.id,
        when=ago(now_s - event.at),
        model_id=event.model_id,
        end=_end(event),
        tokens=f"{event.prompt_tokens}{cached} + {event.completion_tokens}",
        first="" if event.ttft_ms is None else _seconds(event.ttft_ms),
        speed=f"{format_rounded(event.completion_tokens * 1000 / event.decode_ms)}/s" if is_measured else "",
        total=_seconds(event.total_ms),
    )


def _end(event: ReplyEvent) -> str:
    match event.outcome:
        case ReplyOutcome.ABANDONED:
            return "client left"
        case ReplyOutcome.FAILED:
            return f"failed: {event.error}"
        case _:
            return _ENDS[event.finish_reasons[0]] if event.finish_reasons else "finished"


def _troubles(events: Iterable[HostEvent], now_s: float) -> Iterator[Trouble]:
    for event in events:
        words = _words(event)
        if words is not None and isinstance(event, ModelEvent | RejectionEvent | ReplyEvent | RestartEvent):
            yield Trouble(id=event.id, when=ago(now_s - event.at), model_id=event.model_id, words=words)


def _words(event: HostEvent) -> str | None:
    """What went wrong; None if nothing did."""
    match event:
        case RestartEvent():
            return f"the engine died and was started again: {event.death}"
        case ModelEvent(code=str()):
            return f"failed: {event.reason}"
        case ModelEvent(phase=phase, reason=str()) if not phase.serves:
            return f"given up: {event.reason}"
        case RejectionEvent():
            return f"{event.what} refused: {event.reason}"
        case ReplyEvent(outcome=ReplyOutcome.FAILED):
            return f"a reply failed: {event.error}"
        case _:
            return None


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.2f} s" if ms < 10_000 else f"{ms // 1000} s"
