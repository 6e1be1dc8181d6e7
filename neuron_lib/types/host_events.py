"""What happens on a host, for those who follow it: a union of frozen structs, which are JSON as they stand."""

from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct

from neuron_lib.types.ended_reply import ReplyOutcome
from neuron_lib.types.events import FinishReason
from neuron_lib.types.models import LoadProgress, ModelPhase

__all__ = (
    "GapEvent",
    "HostEvent",
    "HostState",
    "HostStateEvent",
    "ModelEvent",
    "ProgressEvent",
    "RejectionEvent",
    "ReloadEvent",
    "ReplyEvent",
    "RestartEvent",
)


class HostState(StrEnum):
    """What a host does as a whole."""

    PRE_WARMING = "pre_warming"
    """Default models are still to be loaded."""
    READY = "ready"
    """Every default model has been loaded or given up."""
    DRAINING = "draining"
    """The host stops, and admits no more loads and requests."""


class _Stamped(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What each event has. `id` says after which event a follower goes on. `at` is seconds of Unix time."""

    id: str
    at: float


class HostStateEvent(_Stamped, frozen=True, kw_only=True, tag="host"):
    """The host as a whole has another state."""

    state: HostState


class ModelEvent(_Stamped, frozen=True, kw_only=True, tag="model"):
    """A model has another phase. The phase `loading` is the first one of each load, and `gone` the last.

    `reason` says why the model recovers, was lost, or could not be loaded, as a whole chain of causes. It is None for a
    model that does what was asked. `code` is the code of the error of a load that failed, None otherwise.
    """

    model_id: str
    phase: ModelPhase
    reason: str | None = None
    code: str | None = None


class ProgressEvent(_Stamped, frozen=True, kw_only=True, tag="progress"):
    """A load has come further. `elapsed_ms` counts from the beginning of the load.

    Of several events of one stage of a load only the last one is kept. So a follower who was away for a moment misses
    the steps in between, and not how far the load is.
    """

    model_id: str
    progress: LoadProgress
    elapsed_ms: int


class RestartEvent(_Stamped, frozen=True, kw_only=True, tag="restart"):
    """The engine of a model has died, and is replaced. `restarts` counts since the load of the model.

    `death` is the signal or the status and the last words of the engine.
    """

    model_id: str
    restarts: int
    death: str


class RejectionEvent(_Stamped, frozen=True, kw_only=True, tag="rejection"):
    """A request to a model was refused before its reply began, or a load before it began.

    `model_id` is the id that was asked for, clipped. `code` is that of the error, and `reason` what a log may show of
    it, without any text of the request. `retry_after_s` is in seconds, None if another try cannot help. `request_id` is
    empty where the request has none. `principal` is the pseudonym of who asked, None for anonymous callers and loads.
    """

    what: Literal["request", "load"]
    model_id: str
    code: str
    reason: str
    retry_after_s: int | None = None
    request_id: str = ""
    principal: str | None = None


class ReplyEvent(_Stamped, frozen=True, kw_only=True, tag="reply"):
    """A reply has ended. It has numbers and names only, and nothing that a client or a model has written, except the
    id that the client gave to its request. See `EndedReply` for their meaning. Times are milliseconds.

    `ttft_ms` is the time to the first event with content, None if there was none. `principal` is a pseudonym.
    """

    model_id: str
    outcome: ReplyOutcome
    prompt_tokens: int
    completion_tokens: int
    queue_ms: int
    total_ms: int
    error: str | None = None
    finish_reasons: tuple[FinishReason, ...] = ()
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    ttft_ms: int | None = None
    prefill_ms: int = 0
    decode_ms: int = 0
    retried: bool = False
    request_id: str = ""
    principal: str | None = None


class ReloadEvent(_Stamped, frozen=True, kw_only=True, tag="reload"):
    """The host has read its configuration again.

    `error` says why everything has stayed as it was; it is None after a reload that succeeded. `needs_restart` has the
    keys whose new values are not in force.
    """

    error: str | None = None
    needs_restart: tuple[str, ...] = ()


class GapEvent(_Stamped, frozen=True, kw_only=True, tag="gap"):
    """Events were missed: they are no longer kept, or they were those of an earlier process.

    A follower that keeps a picture of the host should read the whole state again. The events that are kept follow.
    """


HostEvent: TypeAlias = (
    HostStateEvent | ModelEvent | ProgressEvent | RestartEvent | RejectionEvent | ReplyEvent | ReloadEvent | GapEvent
)
"""One thing that has happened on a host. In JSON the key `type` tells the kinds apart."""
