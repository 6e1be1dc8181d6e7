import struct
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.protocol import (
    MAX_FRAME_BYTES,
    Beat,
    Began,
    Broken,
    Cancel,
    Cancelled,
    ChatTask,
    Close,
    Command,
    CompleteTask,
    Delta,
    DetokenizeTask,
    Done,
    EmbedTask,
    Fatal,
    Limits,
    Load,
    ModelFacts,
    Prepared,
    Progress,
    ProtocolError,
    Ready,
    Refused,
    Report,
    RequestClass,
    RerankTask,
    StepEvents,
    Submit,
    Taken,
    TaskFrame,
    Text,
    TokenizeTask,
    Tokens,
    Vector,
    Work,
    command_decoder,
    encode_frame,
    report_decoder,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import InvalidRequest, PromptTooLong, TemplateFailed
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ContextParams, FinishReason, Grammar, Sampling, SamplingParams


def submit(task: TaskFrame, **fields: Any) -> Submit:
    limits, sampling = Limits(prompt_tokens=16384, reply_tokens=7), Sampling(temperature=0, seed=0)
    return msgspec.structs.replace(Submit(request=2**40, task=task, sampling=sampling, limits=limits), **fields)


COMMANDS: list[Command] = [
    Load(
        path="/models/a.gguf",
        seats=8,
        context=ContextParams(n_ctx=4096, n_ubatch=256, threads=2, kv_type_v="q8_0"),
        target_step_s=0.1,
        use_chat_template=False,
        chat_template="{{ messages[0].content }} 🦊",
    ),
    submit(
        ChatTask(
            messages=({"role": "user", "content": "höi"}, {"role": "assistant", "content": None}),
            tools=({"type": "function", "function": {"name": "f", "parameters": {}}},),
            template_kwargs={"enable_thinking": True, "n": 1.5},
            choices=2,
            stop=("\n\n", "END"),
            top_logprobs=0,
            grammar=Grammar("regex", "a+"),
        )
    ),
    submit(CompleteTask(prompt="once"), sampling=Sampling(temperature=0.7, seed=2**63)),
    submit(CompleteTask(prompt=(1, 2, 3)), class_=RequestClass(principal="a/k", cache_key="a", adapter="pirate")),
    submit(CompleteTask(prompt="def", more_prompts=("a", (4, 5)), suffix="end", echo=True)),
    submit(EmbedTask(inputs=("one", (4, 5)))),
    submit(RerankTask(query="which?", documents=("one", "two"))),
    submit(TokenizeTask(prompt="once", add_special=False, wants_pieces=True)),
    submit(TokenizeTask(prompt=ChatTask(unread={"messages": b"[]"}), wants_text=True)),
    submit(DetokenizeTask(tokens=(1, 2))),
    Cancel(3),
    Close(),
]
REPORTS: list[Report] = [
    Progress(0.25),
    Ready(
        ModelFacts(
            description="llama 135M",
            size_bytes=1 << 40,
            native_context=8192,
            n_ctx=4096,
            recommended=SamplingParams(top_k=40),
            reasoning=Markers("<think>", "</think>"),
        )
    ),
    Prepared(request=1, prompt_tokens=12, in_reasoning=True, echo=("höi",)),
    Refused(1, to_frame(TemplateFailed("no"))),
    Refused(1, to_frame(PromptTooLong(prompt_tokens=9, limit=8))),
    Began(1, replies=3),
    Cancelled(1),
    StepEvents(
        9,
        (
            Delta(1, "é"),
            Done(
                request=2,
                reason=FinishReason.LENGTH,
                text="",
                prompt_tokens=1,
                completion_tokens=2,
                prefill_s=0.5,
                decode_s=1.0,
            ),
            Vector(request=4, choice=1, values=b"\x00\x00\x80?", prompt_tokens=2, prefill_s=0.5),
            Broken(request=3, message="no cells"),
        ),
    ),
    Fatal("no"),
    Beat(step=1, in_flight=2, rss_bytes=3, read_bytes=4, work=(Work("a prompt", 5, 6),)),
    Taken((1, 2)),
    Tokens(request=1, tokens=(1, 2**31 - 1), text="é", pieces=(b"\xc3", b"\xa9")),
    Text(request=1, text="é", token_count=2),
]


def name_of(frame: Command | Report) -> str:
    """Its type, and what tells it apart from others of that type."""
    match frame:
        case Submit(task=CompleteTask(prompt=prompt)):
            return f"Submit of {prompt}"
        case Submit(task=TokenizeTask(prompt=prompt)):
            return f"Submit of TokenizeTask of a {type(prompt).__name__}"
        case Submit(task=task):
            return f"Submit of {type(task).__name__}"
        case Refused(error=error):
            return f"Refused for {error.code}"
    return type(frame).__name__


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    assert list(command_decoder().feed(encode_frame(command))) == [command]


@pytest.mark.parametrize("report", REPORTS, ids=name_of)
def test_a_report_arrives_as_it_was_sent(report: Report) -> None:
    assert list(report_decoder().feed(encode_frame(report))) == [report]


@given(st.lists(st.integers(min_value=0, max_value=600), max_size=12))
def test_frames_survive_any_cut_of_their_bytes(cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, REPORTS))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = report_decoder()
    arrived = [report for start, end in pairwise(edges) for report in decoder.feed(stream[start:end])]
    assert arrived == REPORTS


def test_nothing_comes_out_of_half_a_frame() -> None:
    assert list(report_decoder().feed(encode_frame(REPORTS[0])[:-1])) == []


@given(st.binary(min_size=1, max_size=64))
def test_garbage_is_a_protocol_error_or_a_frame_and_nothing_else(body: bytes) -> None:
    decoder = command_decoder()
    try:
        frames = list(decoder.feed(struct.pack("<I", len(body)) + body))
    except ProtocolError:
        return
    assert len(frames) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        msgspec.msgpack.encode({"type": "reboot"}),
        msgspec.msgpack.encode({"request": 1}),
        msgspec.msgpack.encode({"type": "cancel", "request": "one"}),
        msgspec.msgpack.encode({"type": "cancel"}),
        msgspec.msgpack.encode(
            {"type": "submit", "request": 1, "task": {"type": "dance"}, "sampling": {}, "limits": {}}
        ),
        msgspec.msgpack.encode({"type": "submit", "request": 1, "task": None}),
        msgspec.msgpack.encode({"type": "progress", "fraction": 0.5}),  # of the other direction
        encode_frame(Close())[4:] + b"\x00",
        b"\xa4type" * 3,
        b"\x82\xa4type\xa6cancel\xa7request\xa1\xff",  # not UTF-8
        b"\x91" * 100_000,
    ],
)
def test_what_is_no_command_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {len(body)} bytes does not decode"):
        list(command_decoder().feed(struct.pack("<I", len(body)) + body))


def test_a_frame_that_announces_too_much_is_refused_before_it_has_arrived() -> None:
    with pytest.raises(ProtocolError, match="exceeds"):
        list(command_decoder().feed(struct.pack("<I", MAX_FRAME_BYTES + 1)))


def test_a_frame_that_would_be_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="Submit frame"):
        encode_frame(submit(ChatTask(messages=({"content": "x" * MAX_FRAME_BYTES},))))


def nested(depth: int) -> object:
    value: object = "leaf"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, "\ud800", object(), nested(100_000)],
    ids=["large", "small", "surrogate", "object", "deep"],
)
def test_what_msgpack_cannot_hold_is_a_protocol_error(value: object) -> None:
    with pytest.raises(ProtocolError, match="cannot be encoded"):
        encode_frame(submit(ChatTask(template_kwargs={"x": value})))


@pytest.mark.parametrize("depth", range(0, 1000, 37))
def test_what_can_be_encoded_can_be_decoded(depth: int) -> None:
    command = submit(ChatTask(template_kwargs={"x": nested(depth)}))
    try:
        frame = encode_frame(command)
    except ProtocolError:
        return
    (arrived,) = command_decoder().feed(frame)
    assert isinstance(arrived, Submit)


def test_what_a_client_wrote_as_json_travels_as_it_is_and_is_read_by_the_engine() -> None:
    message = {"role": "user", "content": "é", "x": [1.5, None]}
    unread = {
        "messages": msgspec.json.encode([message]),
        "tools": b'[ {"type": "function"} ]',
        "template_kwargs": b'{"big":123456789012345678901234567890}',
    }
    (arrived,) = command_decoder().feed(encode_frame(submit(ChatTask(unread=unread))))
    assert isinstance(arrived, Submit)
    assert isinstance(arrived.task, ChatTask)
    assert arrived.task.read() == ChatTask(
        messages=(message,),
        tools=({"type": "function"},),
        template_kwargs={"big": 123456789012345678901234567890},
    )


def test_what_was_read_already_stays_beside_what_was_not() -> None:
    chat = ChatTask(messages=({"role": "user"},), unread={"template_kwargs": b'{"x":1}'}).read()
    assert (chat.messages, chat.template_kwargs) == (({"role": "user"},), {"x": 1})
    assert chat.read() is chat


@pytest.mark.parametrize("name", ["messages", "tools", "template_kwargs"])
@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"3", b'{"a":"\xff"}', rb'[{"a":"\ud800"}]', b'{"a":' * 100_000, b'[{"a":' * 100_000],
    ids=["nothing", "cut off", "a number", "no UTF-8", "half a pair", "deep", "deeper"],
)
def test_json_that_cannot_be_read_refuses_the_request_and_names_its_field(name: str, text: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}: ") as caught:
        ChatTask(unread={name: text}).read()
    assert caught.value.param == name
