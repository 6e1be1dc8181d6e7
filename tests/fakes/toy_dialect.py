"""A second API, for tests that the service knows no API: own events, own body, own shape of errors, own statuses."""

import json
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from neuron_lib.errors import NeuronError, Overloaded
from neuron_lib.types import (
    ChatRequest,
    Detokenized,
    Embedding,
    EventBeforeEnd,
    Finished,
    GenerationEvent,
    Principal,
    ReasoningDelta,
    Relevance,
    Started,
    TextDelta,
    Tokenized,
    ToolCall,
    Usage,
)
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Decode, Dialect
from neuron_lib.wire.http_errors import ErrorAnswer, Unauthenticated, Verdict, encode_error, error_answer, judge
from neuron_lib.wire.sse import server_sent_event

__all__ = ("TOY", "TOY_KEY")

TOY_KEY = {"x-toy-key": "open sesame"}
"""Without this header a request is refused with 401."""


class _Body(Struct):
    model: str
    say: str
    bit_by_bit: bool = False


_decoder = msgspec.json.Decoder(_Body)


class ToyRequest(Struct, frozen=True):
    task: ChatRequest
    stream: bool

    def encoder(self, *, unique: str, created: int) -> "ToyEncoder":
        assert (len(unique), created > 0) == (24, True)
        return ToyEncoder()

    def collector(self, *, unique: str, created: int) -> "ToyCollector":
        assert (len(unique), created > 0) == (24, True)
        return ToyCollector()


class ToyEncoder:
    def opening(self) -> bytes:
        return server_sent_event(b"{}", name="hello")

    def event(self, event: EventBeforeEnd) -> bytes:
        match event:
            case Started():
                return server_sent_event(b'{"prompt":%d}' % event.prompt_tokens, name="reading")
            case TextDelta():
                return server_sent_event(msgspec.json.encode({"text": event.text}), name="said")
            case ReasoningDelta() | ToolCall() | Embedding() | Relevance() | Tokenized() | Detokenized():
                return b""

    def ending(self, finished: Finished) -> bytes:
        return server_sent_event(b'{"because":"%s"}' % finished.reason.encode(), name="bye")

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        return server_sent_event(_oops(error, tokens=usage.completion_tokens), name="oops")


class ToyCollector:
    def __init__(self) -> None:
        self.text = ""

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, TextDelta):
            self.text += event.text

    def body(self) -> bytes:
        return json.dumps({"said": self.text}).encode()


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> ToyRequest:
    if not TOY_KEY.items() <= dict(headers).items():
        raise Unauthenticated("there is no key")
    said = decode_body(_decoder, body, content_type=headers.get("content-type"))
    task = ChatRequest(model_id=said.model, messages=({"role": "user", "content": said.say},), principal=principal)
    return ToyRequest(task, said.bit_by_bit)


def error(error: NeuronError) -> ErrorAnswer:
    return error_answer(error, _oops(error), _verdict(error))


def _verdict(error: NeuronError) -> Verdict:
    """Those of the table, but an overload is a 529, as in Anthropic's API."""
    return Verdict(529, "too_busy", "busy") if isinstance(error, Overloaded) else judge(error)


def _oops(error: NeuronError, **more: int) -> bytes:
    return encode_error({"oops": error.message, "number": _verdict(error).status} | more)


def _load() -> Decode:
    return decode


TOY = Dialect(path="/toy/say", error=error, load=_load)
