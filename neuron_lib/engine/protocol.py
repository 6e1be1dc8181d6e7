"""The frames between the daemon and an engine process: u32 little-endian length, then one msgpack struct.

Both sides use it; it does no I/O. The daemon sends a `Command`, the engine a `Report`. A frame that does not decode
strictly is a `ProtocolError`, and the side that meets one ends the conversation.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest
from neuron_lib.modality import CHAT
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ContextParams, FinishReason, Grammar, Sampling, SamplingParams, TokenLogprob

__all__ = (
    "MAX_FRAME_BYTES",
    "Abort",
    "Beat",
    "Broken",
    "Cancel",
    "Cancelled",
    "Close",
    "Command",
    "Delta",
    "Done",
    "Fatal",
    "FrameDecoder",
    "Load",
    "ModelFacts",
    "Prepare",
    "Prepared",
    "Progress",
    "ProtocolError",
    "Ready",
    "Refused",
    "Report",
    "SequenceEvent",
    "Start",
    "StepEvents",
    "Taken",
    "TemplateKind",
    "Work",
    "command_decoder",
    "encode_frame",
    "report_decoder",
)

MAX_FRAME_BYTES: Final = 16 << 20


class ProtocolError(Exception):
    """Something that is not a frame arrived, or cannot become one."""


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """The first command, sent once: load the model file at `path`.

    `seats` is how many requests run at once. `context.threads` is settled, and not 0. `host_cache_bytes` bounds the
    prompts that are kept in host memory. `chat_template` is an operator's Jinja source, used instead of the file's own;
    `use_chat_template` False leaves the file's own unused. With `special_tokens_in_messages` a message that spells a
    control token writes that token.
    """

    path: str
    seats: int
    context: ContextParams
    prompt_cache: bool = True
    host_cache_bytes: int = 0
    speculation: str = "auto"
    target_step_s: float
    report_interval_s: float = 0.0
    use_chat_template: bool = True
    chat_template: str | None = None
    special_tokens_in_messages: bool = False


class Prepare(Struct, frozen=True, kw_only=True, tag="prepare"):
    """Render and tokenize a chat, and keep the tokens for the `Start` of the same request number.

    `unread` has those of `messages`, `tools` and `template_kwargs` that are still JSON text, by name. They are decoded
    by `read`, in the engine's process: what a client has put into them may take long.
    """

    request: int
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = {}
    grammar: Grammar | None = None
    unread: dict[str, bytes] = {}

    def read(self) -> Self:
        """The same with nothing unread. Raises `InvalidRequest` for text that is not JSON of the right shape."""
        if not self.unread:
            return self
        return replace(self, unread={}, **{name: _read(name, text) for name, text in self.unread.items()})


_UNREAD: Final = {
    "messages": msgspec.json.Decoder(tuple[dict[str, Any], ...]).decode,
    "tools": msgspec.json.Decoder(tuple[dict[str, Any], ...]).decode,
    "template_kwargs": msgspec.json.Decoder(dict[str, Any]).decode,
}


def _read(name: str, text: bytes) -> object:
    if name not in _UNREAD:
        raise ProtocolError(f"a Prepare frame has no {name}")
    try:
        return _UNREAD[name](text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{name}: {error}", param=name) from None
    except RecursionError:
        raise InvalidRequest(f"{name}: nested too deeply", param=name) from None


class Start(Struct, frozen=True, kw_only=True, tag="start"):
    """Generate `choices` replies from the prepared prompt.

    The sampling's seed is the first one's, each further choice takes the next number. `top_logprobs` None means that
    nobody wants probabilities. Prompts are only shared between requests of the same `cache_key`.
    """

    request: int
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    choices: int = 1
    top_logprobs: int | None = None
    cache_key: str = ""


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget the request, whatever its state. Nothing more is reported about it but `Cancelled`."""

    request: int


class Close(Struct, frozen=True, tag="close"):
    """End the process."""


class Abort(Struct, frozen=True, tag="abort"):
    """The engine is taken for stuck: say where every thread is, break off what is computed, end the process."""


Command: TypeAlias = Load | Prepare | Start | Cancel | Close | Abort


TemplateKind: TypeAlias = Literal["configured", "model", "fallback"]


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What a loaded model turned out to be. `n_ctx` is the context one request really has, in tokens.

    `kv_layout` and `kv_cells` are what the engine chose, `memory` the kind of memory the model has.
    `chat_template` is whose template writes the prompts: the operator's (`configured`), the model's own, or ChatML
    (`fallback`).
    `reasoning` and `tool_call` are the marker pairs that the vocabulary holds as single tokens, if it holds any.
    `calls_are_read` says that the chat template asks for tool calls in a form that is read from a reply.
    `capabilities` are those of `neuron_lib.modality`; only a model with `CHAT` among them takes prompts.
    `n_vocab` is how many tokens the vocabulary has, 0 where that is not known.
    """

    description: str
    size_bytes: int
    native_context: int
    n_ctx: int
    kv_layout: str = ""
    kv_cells: int = 0
    memory: str = ""
    has_chat_template: bool
    chat_template: TemplateKind = "model"
    recommended: SamplingParams
    reasoning: Markers | None
    tool_call: Markers | None
    calls_are_read: bool = True
    capabilities: tuple[str, ...] = (CHAT,)
    n_vocab: int = 0

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a reply beside the request's own stop strings: a model that has to imitate ChatML goes on in it."""
        return ("<|im_end|>",) if self.chat_template == "fallback" else ()

    def prompt_limit(self, most: int) -> int:
        """Tokens that a prompt may have where `most` are allowed of any: a reply needs room for one at least."""
        return min(self.n_ctx - 1, most)


class Progress(Struct, frozen=True, tag="progress"):
    """Fraction of the weights that has been read."""

    fraction: float


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded; requests may come."""

    facts: ModelFacts


class Taken(Struct, frozen=True, tag="taken"):
    """The prompts of these requests are worked on from now on, and no others. Each is said before it is begun."""

    requests: tuple[int, ...]


class Prepared(Struct, frozen=True, kw_only=True, tag="prepared"):
    """A prompt is tokenized. `prompt_end` is its last text, for parsers that must know what it left open."""

    request: int
    prompt_tokens: int
    prompt_end: str


class Refused(Struct, frozen=True, kw_only=True, tag="refused"):
    """A prompt could not be prepared. `code` is that of the `NeuronError` to raise, `param` what it is about."""

    request: int
    code: str
    message: str
    param: str | None = None


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The engine worked on a request that was to be forgotten, and has left it: it gets on."""

    request: int


class Delta(Struct, frozen=True, array_like=True, tag="delta"):
    """More of a reply. `text` is "" while a code point or a possible stop string is incomplete.

    `tokens` is more than 1 where a step verified drafted tokens, or deltas were merged for a slow reader.
    """

    request: int
    text: str
    tokens: int = 1
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(Struct, frozen=True, kw_only=True, array_like=True, tag="done"):
    """One choice is complete; `text` is what was still held back. Times are seconds of computing that it lived through.

    `cached_tokens` of the prompt were not computed for this choice.
    """

    request: int
    choice: int = 0
    reason: FinishReason
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    prefill_s: float
    decode_s: float


class Broken(Struct, frozen=True, kw_only=True, array_like=True, tag="broken"):
    """A request cannot go on, with none of its choices; the engine can.

    `param` is the request's field whose grammar is to blame, None where the engine is.
    """

    request: int
    message: str
    param: str | None = None


SequenceEvent: TypeAlias = Delta | Done | Broken


class StepEvents(Struct, frozen=True, tag="events"):
    """Everything one step brought, at most one event per sequence."""

    step: int
    events: tuple[SequenceEvent, ...]


class Fatal(Struct, frozen=True, tag="fatal"):
    """The engine gives up (a load that failed, a context that broke) and exits after this."""

    message: str


class Work(Struct, frozen=True, array_like=True):
    """What a thread does beside the steps: how many of `name` it is done with so far, and how many it is not."""

    name: str
    done: int
    waiting: int


class Beat(Struct, frozen=True, kw_only=True, tag="beat"):
    """Sent each second: steps taken so far, sequences in flight, resident memory, what was read from storage so far."""

    step: int
    in_flight: int
    rss_bytes: int
    read_bytes: int = 0
    work: tuple[Work, ...] = ()


Report: TypeAlias = Progress | Ready | Taken | Prepared | Refused | Cancelled | StepEvents | Fatal | Beat

Frame = TypeVar("Frame", Command, Report)

_LENGTH: Final = struct.Struct("<I")
_encoder: Final = msgspec.msgpack.Encoder()


def encode_frame(frame: Command | Report) -> bytes:
    """The frame as bytes.

    Raises `ProtocolError` if it would be longer than `MAX_FRAME_BYTES`, or holds what msgpack cannot: integers of more
    than 64 bits, half a surrogate pair, nesting as deep as the stack.
    """
    try:
        body = _encoder.encode(frame)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a {type(frame).__name__} frame cannot be encoded") from error
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a {type(frame).__name__} frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[Frame]):
    """Cuts a byte stream into frames, however it is split."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Frame]) -> None:
        self._decoder: Final[msgspec.msgpack.Decoder[Frame]] = decoder
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises `ProtocolError` at the first that is too long or malformed."""
        self._pending += data
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_LENGTH.size : end])
            del self._pending[:end]
            try:
                frame = self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ProtocolError(f"a frame of {length} bytes does not decode") from error
            yield frame


def command_decoder() -> FrameDecoder[Command]:
    """Decodes what the daemon sends."""
    return FrameDecoder(msgspec.msgpack.Decoder(Command))


def report_decoder() -> FrameDecoder[Report]:
    """Decodes what the engine sends."""
    return FrameDecoder(msgspec.msgpack.Decoder(Report))
