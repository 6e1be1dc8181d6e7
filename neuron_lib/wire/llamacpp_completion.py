"""Reads and answers llama.cpp's `POST /completion`, the API that its server had before it had OpenAI's.

The fields of a body are those of OpenAI's completions and of llama.cpp. `openai_completions` reads their values.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.errors import NeuronError
from neuron_lib.types import (
    Complete,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Principal,
    TextDelta,
    Usage,
)
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import THE_ONLY_MODEL, ModelIdOrNone
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.openai_completions import CHAT_FIELDS, CompletionBody, task_of
from neuron_lib.wire.openai_errors import envelope
from neuron_lib.wire.refused_parameters import decoder_with_refused, refuse_unsupported
from neuron_lib.wire.reply_account import Timings, timings_of
from neuron_lib.wire.sse import server_sent_event
from neuron_lib.wire.writing_fields import max_tokens_of

__all__ = (
    "SHAPES",
    "LlamaCollector",
    "LlamaCompletion",
    "LlamaCompletionBody",
    "LlamaCompletionRequest",
    "LlamaStreamEncoder",
    "decode",
)

_StopType: TypeAlias = Literal["none", "eos", "limit", "word"]


class LlamaCompletionBody(CompletionBody, frozen=True, kw_only=True):
    """A body that names no model means the only one that is resident."""

    model: ModelIdOrNone = THE_ONLY_MODEL


class LlamaCompletion(Struct, kw_only=True):
    """One reply, or a piece of it. `stop` says that it is complete; the fields below `stop` come with its end.

    `model` is the id that the client wrote, left out if it wrote none. `tokens_predicted` counts the tokens of all
    replies of the request, and `tokens_evaluated` those of all prompts.
    """

    index: int
    content: str
    stop: bool
    stop_type: _StopType | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    tokens_predicted: int | UnsetType = UNSET
    tokens_evaluated: int | UnsetType = UNSET
    tokens_cached: int | UnsetType = UNSET
    truncated: Literal[False] | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


_decoder: Final = decoder_with_refused(LlamaCompletionBody, also=CHAT_FIELDS)
_encode: Final = msgspec.json.Encoder().encode


class LlamaCompletionRequest(Struct, frozen=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and whether to stream."""

    task: Complete
    stream: bool

    def encoder(self, *, unique: str, created: int) -> "LlamaStreamEncoder":  # noqa: ARG002 - these replies have neither
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        return LlamaStreamEncoder(model=self.task.model_id, replies=self.task.choices * len(self.task.prompts))

    def collector(self, *, unique: str, created: int) -> "LlamaCollector":  # noqa: ARG002 - these replies have neither
        """What writes the reply in one piece, as an array if there are several."""
        return LlamaCollector(model=self.task.model_id)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> LlamaCompletionRequest:
    """The request in `body`. Raises what `decode_body` raises, also for values that are out of bounds."""
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    refuse_unsupported(call, also=CHAT_FIELDS)
    for name in ("echo", "logprobs", "stream_options"):
        value = getattr(call, name)
        if value is not None and value is not False:
            raise refusal(name, "only /v1/completions takes this")
    task = task_of(call, principal=principal, max_tokens=max_tokens_of(call))
    return LlamaCompletionRequest(task, stream=bool(call.stream))


class LlamaStreamEncoder:
    """Writes the replies as one stream, which has no `[DONE]`; see `neuron_lib.wire.dialect.StreamEncoder`."""

    __slots__ = ("_model", "_replies")

    def __init__(self, *, model: str, replies: int = 1) -> None:
        """`model` is the id that the client wrote, and `replies` how many there are."""
        self._model = model
        self._replies = replies

    def opening(self) -> bytes:
        """Nothing: the first event is the first text."""
        return b""

    def event(self, event: EventBeforeEnd) -> bytes:
        """A piece of a reply."""
        if not isinstance(event, TextDelta) or not event.text:
            return b""
        return _event(LlamaCompletion(index=event.choice, content=event.text, stop=False))

    def ending(self, finished: Finished) -> bytes:
        """The end of each reply."""
        return b"".join(map(_event, _ends(finished, self._model)))

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The end of each reply as if it had become too long, then an event with the error."""
        cut = Finished(reasons=(FinishReason.LENGTH,) * self._replies, usage=usage)
        return self.ending(cut) + server_sent_event(envelope(error))


class LlamaCollector:
    """Collects the replies; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_finished", "_model", "_texts")

    def __init__(self, *, model: str) -> None:
        """`model` is the id that the client wrote."""
        self._model = model
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        if isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, TextDelta):
            self._texts[event.choice].append(event.text)

    def body(self) -> bytes:
        """One reply as an object, several as an array. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        replies = _ends(self._finished, self._model)
        for reply in replies:
            reply.content = "".join(self._texts[reply.index])
        return escape_line_breaks(_encode(replies[0] if len(replies) == 1 else replies))


def _ends(finished: Finished, model: str) -> list[LlamaCompletion]:
    """The end of each reply, without its text."""
    usage = finished.usage
    words = finished.stop_strings or (None,) * len(finished.reasons)
    return [
        LlamaCompletion(
            index=index,
            content="",
            stop=True,
            stop_type="limit" if reason is FinishReason.LENGTH else "eos" if word is None else "word",
            stopping_word=word or "",
            model=model or UNSET,
            tokens_predicted=usage.completion_tokens,
            tokens_evaluated=usage.prompt_tokens,
            tokens_cached=usage.cached_tokens,
            truncated=False,
            timings=timings_of(usage),
        )
        for index, (reason, word) in enumerate(zip(finished.reasons, words, strict=True))
    ]


def _event(reply: LlamaCompletion) -> bytes:
    return server_sent_event(_encode(reply))


SHAPES: Final = Shapes(
    summary="What follows a text, in llama.cpp's own shape",
    request=LlamaCompletionBody,
    reply=LlamaCompletion | list[LlamaCompletion],
    event=LlamaCompletion,
)
