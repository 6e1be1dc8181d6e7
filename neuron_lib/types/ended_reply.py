"""The account of a reply that has ended, for those who count and measure replies."""

from enum import StrEnum

from msgspec import Struct

from neuron_lib.types.chat import Principal
from neuron_lib.types.events import FinishReason, Usage

__all__ = ("EndedReply", "ReplyOutcome")


class ReplyOutcome(StrEnum):
    """How a reply ended."""

    FINISHED = "finished"
    """Its reader had all of it."""
    ABANDONED = "abandoned"
    """Its reader left before the end."""
    FAILED = "failed"
    """Reading it raised an error."""


class EndedReply(Struct, frozen=True, kw_only=True):
    """One reply that was admitted and has ended, however it ended. Times are seconds.

    `model_id` is the id that the model is published under, in whatever words the request named it. `error` is the code
    of the `NeuronError` that reading the reply raised, or the name of the class of another exception; None unless the
    outcome is `FAILED`. `finish_reasons` has one reason for each choice, and is empty unless the outcome is `FINISHED`.
    `usage` is what the reply has cost until its end, with the times of prefill and decode. `retried`: the reply was
    begun once more, because the engine that made it had died. `whole`: nothing was given out before the end, so
    `first_event_s` is the time of the end. `request_id` is that of the task. `had_seat` is False for a
    `Tokenize` or a `Detokenize`, for which the model computes nothing.

    `queue_s` is the time until the request was admitted: for the model to be loaded, for its prompt to be prepared, and
    for a seat. `first_event_s` is the time from the same start to the first event with content; None if there was none.
    `total_s` is the time from the same start until the reader left.
    """

    model_id: str
    outcome: ReplyOutcome
    error: str | None
    finish_reasons: tuple[FinishReason, ...]
    usage: Usage
    retried: bool
    principal: Principal | None
    queue_s: float
    first_event_s: float | None
    total_s: float
    whole: bool = False
    request_id: str = ""
    had_seat: bool = True
