import struct
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.protocol import (
    MAX_FRAME_BYTES,
    Beat,
    Broken,
    Cancel,
    Cancelled,
    Close,
    Command,
    Delta,
    Done,
    Fatal,
    Load,
    ModelFacts,
    Prepare,
    Prepared,
    Progress,
    ProtocolError,
    Ready,
    Refused,
    Report,
    Start,
    StepEvents,
    Taken,
    Work,
    command_decoder,
    encode_frame,
    report_decoder,
)
from neuron_lib.errors import InvalidRequest
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ContextParams, FinishReason, Sampling, SamplingParams

COMMANDS: list[Command] = [
    Load(
        path="/models/a.gguf",
        seats=8,
        context=ContextParams(n_ctx=4096, n_ubatch=256, threads=2, kv_type_v="q8_0"),
        target_step_s=0.1,
        use_chat_template=False,
        chat_template="{{ messages[0].content }} 🦊",
    ),
    Prepare(
        request=1,
        messages=({"role": "user", "content": "höi"}, {"role": "assistant", "content": None}),
        tools=({"type": "function", "function": {"name": "f", "parameters": {}}},),
        template_kwargs={"enable_thinking": True, "n": 1.5},
    ),
    Start(request=2**40, sampling=Sampling(temperature=0.7, seed=2**63), max_tokens=7, stop=("\n\n", "END")),
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
            has_chat_template=True,
            recommended=SamplingParams(top_k=40),
            reasoning=Markers("<think>", "</think>"),
            tool_call=None,
        )
    ),
    Prepared(request=1, prompt_tokens=12, prompt_end="assistant\n"),
    Refused(request=1, code="template_render_failed", message="no"),
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
            Broken(request=3, message="no cells"),
        ),
    ),
    Fatal("no"),
    Beat(step=1, in_flight=2, rss_bytes=3, read_bytes=4, work=(Work("a prompt", 5, 6),)),
    Taken((1, 2)),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_arrives_as_it_was_sent(command: Command) -> None:
    assert list(command_decoder().feed(encode_frame(command))) == [command]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
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
        msgspec.msgpack.encode({"type": "start", "request": 1, "sampling": None, "max_tokens": 1}),
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
    with pytest.raises(ProtocolError, match="Prepare frame"):
        encode_frame(Prepare(request=1, messages=({"content": "x" * MAX_FRAME_BYTES},)))


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
        encode_frame(Prepare(request=1, messages=(), template_kwargs={"x": value}))


@pytest.mark.parametrize("depth", range(0, 1000, 37))
def test_what_can_be_encoded_can_be_decoded(depth: int) -> None:
    command = Prepare(request=1, messages=(), template_kwargs={"x": nested(depth)})
    try:
        frame = encode_frame(command)
    except ProtocolError:
        return
    (arrived,) = command_decoder().feed(frame)
    assert isinstance(arrived, Prepare)


def test_what_a_client_wrote_as_json_travels_as_it_is_and_is_read_by_the_engine() -> None:
    message = {"role": "user", "content": "é", "x": [1.5, None]}
    unread = {
        "messages": msgspec.json.encode([message]),
        "tools": b'[ {"type": "function"} ]',
        "template_kwargs": b'{"big":123456789012345678901234567890}',
    }
    (arrived,) = command_decoder().feed(encode_frame(Prepare(request=1, unread=unread)))
    assert isinstance(arrived, Prepare)
    assert arrived.read() == Prepare(
        request=1,
        messages=(message,),
        tools=({"type": "function"},),
        template_kwargs={"big": 123456789012345678901234567890},
    )


def test_what_was_read_already_stays_beside_what_was_not() -> None:
    chat = Prepare(request=1, messages=({"role": "user"},), unread={"template_kwargs": b'{"x":1}'}).read()
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
        Prepare(request=1, unread={name: text}).read()
    assert caught.value.param == name
