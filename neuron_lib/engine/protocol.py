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

from neuron_lib.error_frames import ErrorFrame
from neuron_lib.errors import InvalidRequest
from neuron_lib.modality import CHAT
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import (
    ContextParams,
    EngineMeasures,
    FinishReason,
    Grammar,
    MemoryPlan,
    RpcDevice,
    Sampling,
    SamplingParams,
    TokenLogprob,
    ToolChoice,
)

__all__ = (
    "MAX_FRAME_BYTES",
    "Abort",
    "Beat",
    "Began",
    "Broken",
    "Cancel",
    "Cancelled",
    "ChatTask",
    "Close",
    "Command",
    "CompleteTask",
    "Delta",
    "DetokenizeTask",
    "Done",
    "EmbedTask",
    "Fatal",
    "FrameDecoder",
    "Limits",
    "Load",
    "ModelFacts",
    "Planned",
    "Prepared",
    "Progress",
    "ProtocolError",
    "Ready",
    "Refused",
    "Report",
    "RequestClass",
    "RequestReport",
    "RerankTask",
    "SequenceEvent",
    "StepEvents",
    "Submit",
    "Taken",
    "TaskFrame",
    "TemplateKind",
    "Text",
    "TokenizeTask",
    "Tokens",
    "Vector",
    "VectorTask",
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
    `use_chat_template` False leaves the file's own unused. `tool_format` is the name of the format of tool calls, ""
    chooses by the template. With `special_tokens_in_messages` a message that spells a control token writes that token.

    The engine plans its memory first, and says so (`Planned`). With `plan_only` it does nothing more. With
    `refuses_unfit` it ends instead of loading a model that does not fit. With `assumes_empty` the plan is made as if no
    other program took any memory. `host_limit_bytes` is how much of the host's memory the model may take even if more
    is free, None for all.

    The model is shared out among `rpc_devices`, and with `beside_gpus` among the GPUs that the process sees as well.
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
    tool_format: str = ""
    special_tokens_in_messages: bool = False
    plan_only: bool = False
    refuses_unfit: bool = True
    assumes_empty: bool = False
    host_limit_bytes: int | None = None
    rpc_devices: tuple[RpcDevice, ...] = ()
    beside_gpus: bool = True


class _Writing(Struct, frozen=True, kw_only=True):
    """How a text is to be written: `choices` times, up to one of the texts in `stop`, in the form of `grammar`.

    `top_logprobs` None means that no probabilities are wanted.
    """

    choices: int = 1
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    grammar: Grammar | None = None


class ChatTask(_Writing, frozen=True, kw_only=True, tag="chat"):
    """Write the next message of a chat, which the model's template makes a prompt of.

    `unread` has those of `messages`, `tools` and `template_kwargs` that are still JSON text, by name. They are decoded
    by `read`, in the engine's process, because a client may have made them slow to decode.
    """

    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = {}
    tool_choice: ToolChoice = ToolChoice()
    reasoning_budget: int | None = None
    continue_final_message: bool | None = None
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
        raise ProtocolError(f"a chat has no {name}")
    try:
        return _UNREAD[name](text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{name}: {error}", param=name) from None
    except RecursionError:
        raise InvalidRequest(f"{name}: nested too deeply", param=name) from None


class CompleteTask(_Writing, frozen=True, kw_only=True, tag="complete"):
    """Go on with a text, or with several; `neuron_lib.types.Complete` says what the fields mean."""

    prompt: str | tuple[int, ...]
    more_prompts: tuple[str | tuple[int, ...], ...] = ()
    suffix: str | None = None
    echo: bool = False

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All prompts."""
        return self.prompt, *self.more_prompts


class EmbedTask(Struct, frozen=True, kw_only=True, tag="embed"):
    """Make a vector of each input: a string, or token ids."""

    inputs: tuple[str | tuple[int, ...], ...]


class RerankTask(Struct, frozen=True, kw_only=True, tag="rerank"):
    """Say of each document how well it answers the query."""

    query: str
    documents: tuple[str, ...]


class TokenizeTask(Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Say the tokens of a text or of a chat; `neuron_lib.types.Tokenize` says what the fields mean."""

    prompt: str | ChatTask
    add_special: bool = True
    parse_special: bool = True
    wants_text: bool = False
    wants_pieces: bool = False


class DetokenizeTask(Struct, frozen=True, kw_only=True, tag="detokenize"):
    """Say the text of token ids."""

    tokens: tuple[int, ...]


VectorTask: TypeAlias = EmbedTask | RerankTask
"""A task whose results are a `Vector` for each of its texts."""

TaskFrame: TypeAlias = ChatTask | CompleteTask | VectorTask | TokenizeTask | DetokenizeTask


class Limits(Struct, frozen=True, kw_only=True):
    """How many tokens a prompt may have, whatever the context could hold, and how many each reply.

    Cells for `reserved_tokens` tokens of each reply are reserved before the request begins.
    """

    prompt_tokens: int
    reply_tokens: int
    reserved_tokens: int = 0


class RequestClass(Struct, frozen=True, kw_only=True):
    """Whose request it is, and with which others it may share.

    `principal` names who asks, "" for nobody in particular. All requests of nobody in particular may hold `most_seats`
    seats together, this one included; 0 sets no bound. Prompts are shared only between requests of the same `cache_key`
    and `adapter`. Sequences are computed in one batch only if they have the same `adapter` ("" is none).
    """

    principal: str = ""
    most_seats: int = 0
    cache_key: str = ""
    adapter: str = ""


class Submit(Struct, frozen=True, kw_only=True, tag="submit", rename={"class_": "class"}):
    """Do this task: prepare its prompt, let it wait in the line for its seats, and make its replies.

    `request` is greater the later the request came, also if it is submitted again to the next engine. The seed of
    `sampling` is that of the first choice, and each further choice takes the next number. `request_id` is one word that
    the engine's lines about the request begin with, "" none.
    """

    request: int
    request_id: str = ""
    task: TaskFrame
    sampling: Sampling
    limits: Limits
    class_: RequestClass = RequestClass()


class Cancel(Struct, frozen=True, tag="cancel"):
    """Give the request up, whatever its state. The engine answers with `Cancelled` once it has left the request."""

    request: int


class Close(Struct, frozen=True, tag="close"):
    """End the process."""


class Abort(Struct, frozen=True, tag="abort"):
    """The engine is taken for stuck: say where every thread is, break off what is computed, end the process."""


Command: TypeAlias = Load | Submit | Cancel | Close | Abort


TemplateKind: TypeAlias = Literal["configured", "model", "fallback"]


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What a loaded model turned out to be. `n_ctx` is the context one request really has, in tokens.

    `kv_layout` and `kv_cells` are what the engine chose, `memory` the kind of memory the model has. A cell takes
    `cell_bytes` bytes, 0 where that is not known.
    `chat_template` is whose template writes the prompts: the operator's (`configured`), the model's own, or ChatML
    (`fallback`).
    `tool_format` is the name of the format in which calls and reasoning are read (`neuron_lib.text.formats`), "" for a
    model that takes no prompts. `reasoning` are the markers around reasoning, if the model has any.
    `capabilities` are those of `neuron_lib.modality`; only a model with `CHAT` among them takes prompts.
    `n_vocab` is how many tokens the vocabulary has, 0 where that is not known. `vector_width` is how many numbers a
    vector has, 0 for a model that makes none.
    `supports_gpu` says whether the engine's llama.cpp was built for GPUs.
    """

    description: str
    size_bytes: int
    native_context: int
    n_ctx: int
    supports_gpu: bool = True
    kv_layout: str = ""
    kv_cells: int = 0
    cell_bytes: int = 0
    memory: str = ""
    chat_template: TemplateKind = "model"
    recommended: SamplingParams
    reasoning: Markers | None
    tool_format: str = "generic"
    capabilities: tuple[str, ...] = (CHAT,)
    n_vocab: int = 0
    vector_width: int = 0

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a reply beside the request's own stop strings: a model that has to imitate ChatML goes on in it."""
        return ("<|im_end|>",) if self.chat_template == "fallback" else ()

    def prompt_limit(self, most: int) -> int:
        """Tokens that a prompt may have where `most` are allowed of any. A reply needs room for one more token."""
        return min(self.n_ctx - 1 if CHAT in self.capabilities else self.n_ctx, most)


class Progress(Struct, frozen=True, tag="progress"):
    """Fraction of the weights that has been read."""

    fraction: float


class Planned(Struct, frozen=True, tag="planned"):
    """The memory that the load will take, before any weights are read. None if libllama does not say it.

    `is_refused` means that the model does not fit and that the engine ends.
    """

    plan: MemoryPlan | None
    is_refused: bool = False


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded; requests may come."""

    facts: ModelFacts


class Taken(Struct, frozen=True, tag="taken"):
    """The prompts of these requests, and no others, are worked on from now on. The engine says so before it begins."""

    requests: tuple[int, ...]


class Prepared(Struct, frozen=True, kw_only=True, tag="prepared"):
    """The request is in the line. Its replies begin `in_reasoning` if the prompt has opened a block of reasoning.
    `echo` has the texts of all prompts, if the task wants them. `cells` are those that it takes or reserves when it
    begins, unless it can share some.
    """

    request: int
    prompt_tokens: int
    in_reasoning: bool = False
    echo: tuple[str, ...] = ()
    cells: int = 0


class Refused(Struct, frozen=True, tag="refused"):
    """The request cannot be done, for the reason in `error`."""

    request: int
    error: ErrorFrame


class Tokens(Struct, frozen=True, kw_only=True, tag="tokens"):
    """The whole answer to a `TokenizeTask`. No seat is taken for such a task, and nothing more is said of it."""

    request: int
    tokens: tuple[int, ...]
    text: str = ""
    pieces: tuple[bytes, ...] = ()


class Text(Struct, frozen=True, kw_only=True, tag="text"):
    """The whole answer to a `DetokenizeTask`, like `Tokens`. `token_count` is how many tokens were read."""

    request: int
    text: str
    token_count: int


class Began(Struct, frozen=True, tag="began"):
    """The request has its seats, and the next step works on it. It ends with one `Done` or `Vector` for each of its
    `replies`, or with `Broken` or `Cancelled` for all of them. The engine says so before that step. `cached_tokens` of
    its first prompt are not computed. `Done` says it of each choice, but not every request lives so long.
    """

    request: int
    replies: int = 1
    cached_tokens: int = 0


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The engine has left a request that was cancelled: it neither works on it nor will."""

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
    """One choice is complete; `text` is what was still held back.

    `queue_s` are the seconds from the arrival of the request to its beginning. `prefill_s` and `decode_s` are the
    seconds of the steps that the choice was in. `cached_tokens` of the prompt were not computed for this choice.
    `stop` is the stop string that ended it, None if none did.
    """

    request: int
    choice: int = 0
    reason: FinishReason
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    queue_s: float = 0.0
    prefill_s: float
    decode_s: float
    stop: str | None = None


class Vector(Struct, frozen=True, kw_only=True, array_like=True, tag="vector"):
    """The vector of one input is complete, which ends that input; `choice` counts the inputs from 0.

    `values` are float32, little-endian. Those of a document that is ranked are the outputs of the classifier.
    `prefill_s` are the seconds of all steps so far in which texts of the request were computed. `queue_s` is that of
    `Done`.
    """

    request: int
    choice: int
    values: bytes
    prompt_tokens: int
    queue_s: float = 0.0
    prefill_s: float


class Broken(Struct, frozen=True, kw_only=True, array_like=True, tag="broken"):
    """A request cannot go on, with none of its choices; the engine can.

    `param` is the request's field whose grammar is to blame, None where the engine is.
    """

    request: int
    message: str
    param: str | None = None


SequenceEvent: TypeAlias = Delta | Done | Vector | Broken


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
    """Sent each second: steps taken so far, sequences in flight, resident memory, what was read from storage so far.

    `measures` are None before the model is loaded. The engine does not know `EngineMeasures.kv_cells`: they are among
    the `ModelFacts`.
    """

    step: int
    in_flight: int
    rss_bytes: int
    read_bytes: int = 0
    work: tuple[Work, ...] = ()
    measures: EngineMeasures | None = None


RequestReport: TypeAlias = Prepared | Refused | Tokens | Text | Began | Cancelled | SequenceEvent
"""What the engine says about one request; events of a step come together in `StepEvents`."""

Report: TypeAlias = (
    Progress
    | Planned
    | Ready
    | Taken
    | Prepared
    | Refused
    | Tokens
    | Text
    | Began
    | Cancelled
    | StepEvents
    | Fatal
    | Beat
)

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
