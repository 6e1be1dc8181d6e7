import gc
import os
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from msgspec.structs import replace

from neuron_lib.admission import AdmissionRules
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, SamplingConfig
from neuron_lib.engine.protocol import (
    Beat,
    Began,
    Delta,
    Done,
    Load,
    Prepared,
    Refused,
    StepEvents,
    Submit,
    Vector,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidRequest,
    KvWaitExpired,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    ShuttingDown,
    SuspectRequest,
    TemplateFailed,
    TooLargeForKv,
    UnsupportedCapability,
    WrongModality,
)
from neuron_lib.harness import Reply
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.sources.store import LocalModel
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.supervision.supervisor import supervise
from neuron_lib.types import (
    ChatRequest,
    Complete,
    Detokenize,
    Detokenized,
    Distribution,
    Embed,
    Embedding,
    EngineMeasures,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Grammar,
    Likely,
    ModelLimit,
    ModelStatus,
    Principal,
    ReasoningDelta,
    Relevance,
    Rerank,
    SamplingParams,
    Servable,
    Started,
    Task,
    TextDelta,
    Tokenize,
    Tokenized,
    TokenLogprob,
    ToolCall,
    UnreadArray,
    UnreadObject,
    Usage,
)
from tests.fakes.memory_engine import MemoryEngine, open_memory_engine
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

FAKE_ENGINE = Path(__file__).parents[2] / "fakes" / "fake_engine.py"

EITHER = pytest.mark.parametrize("in_process", [False, pytest.param(True, marks=pytest.mark.process)])
"""With the engine in memory, and with an engine that is a process."""

TOOL = {"type": "function", "function": {"name": "now", "parameters": {}}}


@asynccontextmanager
async def model_of(
    mode: str = "normal",
    *,
    between: Sequence[str] = (),
    then: str = "normal",
    seats: int = 1,
    queue: int = 4,
    max_wait_s: float = 60.0,
    kv_max_wait_s: float = 240.0,
    isolates_principals: bool = False,
    policy: RestartPolicy | None = None,
    in_process: bool = False,
) -> AsyncIterator[LlamaCppModel]:
    """A model whose first engine is a fake in `mode`; those after the ones `between` are all in the mode `then`.

    Engines live in memory, or with `in_process` in a process each.
    """
    modes = chain([mode, *between], repeat(then))
    admission = AdmissionConfig(max_in_flight=seats)
    config = LlamaCppConfig(n_ctx=64, n_batch=64, n_ubatch=64, threads=1, admission=admission)
    load = load_command(config, LocalModel(path=Path("/nowhere.gguf")), environ={})

    def start() -> AbstractAsyncContextManager[EngineClient]:
        if not in_process:
            return open_memory_engine(load, mode=next(modes))
        return open_engine(
            load,
            model_id="org/fake",
            environment=engine_environment(os.environ),
            on_progress=lambda _fraction: None,
            command=(sys.executable, str(FAKE_ENGINE), next(modes)),
        )

    policy = policy or RestartPolicy(first_pause_s=0.01)
    async with supervise(start, model_id="org/fake", policy=policy) as supervisor:
        yield LlamaCppModel(
            supervisor,
            harness_name="llamacpp",
            devices=(0,),
            rules=AdmissionRules(
                max_in_flight=seats, max_queue_depth=queue, max_wait_s=max_wait_s, kv_max_wait_s=kv_max_wait_s
            ),
            max_prompt_tokens=5,
            sampling=SamplingConfig(max_tokens=100),
            isolates_principals=isolates_principals,
        )


def ask(content: Any, *, stop: Sequence[str] = ()) -> ChatRequest:
    return ChatRequest(model_id="org/fake", messages=({"role": "user", "content": content},), stop=tuple(stop))


def engine_of(model: LlamaCppModel) -> MemoryEngine:
    """The engine that serves."""
    engine = model._supervisor.engine
    assert isinstance(engine, MemoryEngine)
    return engine


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks bring about."""
    while not condition():  # noqa: ASYNC110 - nobody tells when a condition of a test comes true
        await anyio.sleep(0.001)


async def read_to_end(generation: Reply) -> None:
    async for _event in generation:
        pass


async def reply_to(model: LlamaCppModel, text: str) -> list[GenerationEvent]:
    async with model.run(ask(text)) as generation:
        return [event async for event in generation]


@EITHER
async def test_a_reply_starts_speaks_and_finishes_with_its_usage(*, in_process: bool) -> None:
    async with model_of(in_process=in_process) as model:
        events = await reply_to(model, "one two")
        assert model.load().in_flight == 0
    assert events == [
        Started(prompt_tokens=2),
        TextDelta("one "),
        TextDelta("two "),
        TextDelta("!"),
        Finished(
            reasons=(FinishReason.STOP,),
            usage=Usage(
                prompt_tokens=2, completion_tokens=2, cached_tokens=1, queue_ms=125, prefill_ms=250, decode_ms=500
            ),
        ),
    ]


class Forwarded:
    """Takes forwarded events, always with room for more."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.events: list[GenerationEvent] = []
        self._error = error

    def __call__(self, event: EventBeforeEnd) -> bool:
        if self._error is not None:
            raise self._error
        self.events.append(event)
        return True


async def test_a_reply_that_forwards_gives_its_beginning_and_its_end_by_iteration_and_all_events_in_order() -> None:
    seen, read = Forwarded(), list[GenerationEvent]()

    async def read_on() -> None:
        async for event in reply:
            read.append(event)
            seen.events.append(event)

    async with (
        model_of("stuck-after-delta") as model,
        model.run(ask("one")) as reply,
        anyio.create_task_group() as tasks,
    ):
        reply.forward(seen)
        tasks.start_soon(read_on)
        await until(lambda: texts(seen.events) == "one ")
        await let_others_run()
        done = Done(
            request=1,
            reason=FinishReason.STOP,
            text="!",
            prompt_tokens=1,
            completion_tokens=2,
            prefill_s=0.25,
            decode_s=0.5,
        )
        engine_of(model)._tell(Delta(1, "two "))
        engine_of(model)._take(StepEvents(1, (done,)))
    assert (type(read[0]), type(read[-1])) == (Started, Finished)
    assert texts(seen.events) == "one two !"
    assert TextDelta("two ") not in read


async def test_events_that_are_forwarded_and_events_that_are_read_are_in_order_whatever_room_there_is() -> None:
    async with model_of("stuck-after-delta") as model, model.run(ask("one two")) as reply:
        seen: list[str] = []

        def take(event: EventBeforeEnd) -> bool:
            assert isinstance(event, TextDelta)
            seen.append(f"forwarded {event.text}")
            return len(seen) % 3 == 1

        async def read() -> None:
            async for event in reply:
                seen.extend(f"read {text}" for text in [texts([event])] if text)

        reply.forward(take)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await until(lambda: len(seen) == 1)
            for number in range(6):
                engine_of(model)._tell(Delta(1, f"{number}"))
                await let_others_run()
            tasks.cancel_scope.cancel()
    assert [text.partition(" ")[2] for text in seen] == ["one ", "0", "1", "2", "3", "4", "5"]
    assert {text.partition(" ")[0] for text in seen} == {"forwarded", "read"}


async def test_a_reply_that_is_begun_once_more_goes_on_forwarding() -> None:
    seen = Forwarded()
    async with (
        model_of("segv-at-start", then="stuck-after-delta") as model,
        model.run(ask("one")) as reply,
        anyio.create_task_group() as tasks,
    ):
        reply.forward(seen)
        tasks.start_soon(read_to_end, reply)
        await until(lambda: reply.retried and reply.usage.completion_tokens == 1)
        await let_others_run()
        engine_of(model)._tell(Delta(1, "more"))
        assert texts(seen.events).endswith("more")
        tasks.cancel_scope.cancel()


async def test_a_reply_that_is_wanted_whole_forwards_nothing() -> None:
    forwarded = Forwarded()
    async with model_of() as model, model.run(replace(ask("one two three"), whole=True)) as reply:
        reply.forward(forwarded)
        read = [event async for event in reply]
    assert (texts(read), forwarded.events) == ("one two three !", [])


async def test_what_goes_wrong_in_forwarding_is_raised_by_the_reply_and_the_engine_serves_on() -> None:
    async with model_of("stuck-after-delta", seats=2) as model:
        async with model.run(ask("one two")) as reply:
            reply.forward(Forwarded(error=ZeroDivisionError("a bug")))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tell_when_it_waits, model)
                with pytest.raises(ZeroDivisionError, match="a bug"):
                    [event async for event in reply]
        assert model.info().status is ModelStatus.LOADED
        async with model.run(ask("three four")):
            pass


async def tell_when_it_waits(model: LlamaCppModel) -> None:
    for _ in range(20):
        await let_others_run()
    engine_of(model)._tell(Delta(1, "more"))


def texts(events: Sequence[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_all_that_the_engine_is_told_of_a_request_is_one_submit() -> None:
    async with model_of() as model:
        await reply_to(model, "one two")
        assert [type(command) for command in engine_of(model).told] == [Load, Submit]


async def test_reasoning_is_told_apart_and_its_tokens_are_counted() -> None:
    async with model_of("markers") as model:
        *events, finished = await reply_to(model, "<think> a </think> b")
    assert ReasoningDelta("a ") in events
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "b !"
    assert isinstance(finished, Finished)
    assert finished.usage.reasoning_tokens == 2  # the opening marker and what follows, up to the closing one


async def test_a_reply_that_is_cut_off_while_reasoning_was_reasoning_to_its_last_token() -> None:
    async with model_of("markers-cut") as model:
        finished = (await reply_to(model, "<think> a b"))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.reasoning_tokens == finished.usage.completion_tokens == 3


async def test_reasoning_that_was_asked_for_is_part_of_the_text() -> None:
    request = msgspec.structs.replace(ask("<think> a </think> b"), include_thinking=True)
    async with model_of("markers") as model, model.run(request) as generation:
        events = [event async for event in generation]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "<think> a </think> b !"


async def test_a_prompt_that_opens_a_block_of_reasoning_makes_the_reply_start_inside() -> None:
    async with model_of("markers") as model:
        events = await reply_to(model, "a <think>")  # the fake ends its prompt with its last word
    assert ReasoningDelta("a ") in events


@pytest.mark.parametrize(("tools", "reason"), [((TOOL,), FinishReason.TOOL_CALLS), ((), FinishReason.STOP)])
async def test_a_tool_call_is_one_only_for_a_request_with_tools(tools: tuple[Any, ...], reason: FinishReason) -> None:
    call = '<tool_call> {"name":"now","arguments":{}} </tool_call>'
    request = msgspec.structs.replace(ask(call), tools=tools)
    async with model_of("markers") as model, model.run(request) as generation:
        events = [event async for event in generation]
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["now" for _ in tools]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is reason


async def test_several_replies_to_one_request_are_read_side_by_side_and_billed_as_one() -> None:
    request = msgspec.structs.replace(ask("<think> a </think> b"), choices=3)
    async with model_of("markers", seats=3) as model, model.run(request) as generation:
        assert model.load().in_flight == 3
        started, *events, finished = [event async for event in generation]
        assert model.load().in_flight == 0
    assert started == Started(prompt_tokens=4)
    for choice in range(3):
        own = [event for event in events if isinstance(event, TextDelta | ReasoningDelta) and event.choice == choice]
        assert own[1:] == [ReasoningDelta("a ", choice), TextDelta("b ", choice), TextDelta("!", choice)]
    assert finished == Finished(
        reasons=(FinishReason.STOP,) * 3,
        usage=Usage(
            prompt_tokens=4,
            completion_tokens=4 + 5 + 6,
            cached_tokens=1,
            reasoning_tokens=3 * 2,
            queue_ms=125,
            prefill_ms=250,
            decode_ms=1500,
        ),
    )


async def test_a_reply_with_log_probabilities_has_them_at_its_text() -> None:
    request = msgspec.structs.replace(ask("<think> a </think> b"), top_logprobs=1)
    async with model_of("markers") as model, model.run(request) as generation:
        texts = [event async for event in generation if isinstance(event, TextDelta)]
    assert texts == [
        TextDelta("b ", logprobs=(TokenLogprob(b"b ", -0.5, (Likely(b"x", -0.25),)),)),
        TextDelta("!"),  # the fake's last word is nobody's token
    ]


@pytest.mark.parametrize(
    ("principal", "isolates", "cache_key"),
    [
        (Principal("account", "key"), False, "-"),
        (Principal("account", "key"), True, "account"),
        (Principal("account", "other"), True, "account"),
        (None, True, "-"),
    ],
)
async def test_prompts_are_shared_by_all_or_within_an_account(
    principal: Principal | None, cache_key: str, *, isolates: bool
) -> None:
    request = msgspec.structs.replace(ask("echo-start"), principal=principal, choices=2, top_logprobs=0)
    async with (
        model_of(seats=2, isolates_principals=isolates) as model,
        model.run(request) as generation,
    ):
        told = [event.text async for event in generation if isinstance(event, TextDelta) and event.choice == 0]
    assert told == [f"{cache_key} ", "2 ", "0 ", "!"]


async def test_the_whole_of_a_reply_that_is_bound_by_a_grammar_is_text_even_where_the_prompt_opened_reasoning() -> None:
    request = msgspec.structs.replace(ask("{} </think> <think>"), grammar=Grammar("regex", ".*"))
    async with model_of("markers") as model, model.run(request) as generation:
        events = [event async for event in generation]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "{} </think> <think> !"


async def test_a_grammar_that_the_engine_refuses_is_named_by_its_field() -> None:
    request = msgspec.structs.replace(ask("one"), grammar=Grammar("regex", "refuse"))
    async with model_of() as model:
        with pytest.raises(InvalidRequest, match="not a grammar") as raised:
            async with model.run(request):
                pass
    assert raised.value.param == "regex"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"choices": 2}, "n"),
        ({"choices": 0}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
    ],
)
async def test_what_cannot_be_had_is_refused_by_the_name_of_its_field(changes: dict[str, Any], param: str) -> None:
    async with model_of() as model:
        with pytest.raises(InvalidRequest) as raised:
            async with model.run(msgspec.structs.replace(ask("one"), **changes)):
                pass
        assert raised.value.param == param
        assert "with 0 requests" in repr(model)


@pytest.mark.parametrize(
    ("mode", "stop", "found"),
    [("normal", "stop: mine !", ("mine",)), ("fallback", "stop: mine <|im_end|> !", ())],
)
async def test_a_model_that_imitates_chatml_stops_at_the_end_of_its_turn(
    mode: str, stop: str, found: tuple[str, ...]
) -> None:
    async with model_of(mode) as model, model.run(ask("echo-stop", stop=["mine"])) as generation:
        events = [event async for event in generation]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == stop
    assert isinstance(events[-1], Finished)
    assert events[-1].stop_strings == found


async def test_a_request_holds_its_seat_until_its_block_has_ended_and_the_engine_has_let_go_of_it() -> None:
    async with model_of("stuck-after-delta") as model:
        async with model.run(ask("one")):
            assert model.load().in_flight == 1
        assert model.load().in_flight == 1  # the engine does not know yet
        await until(lambda: model.load().in_flight == 0)


async def test_the_seat_of_a_client_who_left_is_taken_until_the_engine_is_out_of_its_step() -> None:
    async with model_of("hung-after-delta", queue=0) as model:
        async with model.run(ask("one")):
            pass
        await let_others_run(100)
        assert (model.load().in_flight, model.load().queue_depth) == (1, 0)
        with pytest.raises(Overloaded):
            await reply_to(model, "two")
        await die(engine_of(model))
        await until(lambda: model.load().in_flight == 0)


@pytest.mark.parametrize(("mode", "tool_format"), [("normal", "generic"), ("markers", "hermes"), ("mute", None)])
async def test_a_model_shows_the_format_in_which_it_calls_tools(mode: str, tool_format: str | None) -> None:
    async with model_of(mode) as model:
        info = model.info()
    assert info.tool_format == tool_format
    assert info.tool_call is (tool_format is not None)


async def test_a_generation_does_nothing_until_it_is_entered() -> None:
    async with model_of() as model:
        model.run(ask("one"))
        assert model.load().in_flight == 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ask("a b c d e f"), PromptTooLong),
        (ask("refuse"), TemplateFailed),
        (ask([{"type": "image_url"}]), UnsupportedCapability),
        (ask("one", stop=["x", ""]), InvalidRequest),
        (ask(1 << 70), InvalidRequest),
    ],
    ids=["long", "template", "image", "empty stop", "huge number"],
)
async def test_a_refusal_comes_on_entering_and_leaves_nothing_behind(
    request_: ChatRequest, error: type[Exception]
) -> None:
    async with model_of() as model:
        with pytest.raises(error):
            async with model.run(request_):
                pytest.fail("it was entered")
        assert model.load().in_flight == 0
        assert "with 0 requests" in repr(model)
        assert len(await reply_to(model, "one")) == 4


async def test_a_reply_says_what_it_has_cost_so_far_also_when_it_is_lost() -> None:
    async with model_of("segv-after-delta") as model, model.run(ask("one two")) as generation:
        assert generation.usage == Usage(prompt_tokens=2, completion_tokens=0, cached_tokens=1)
        with pytest.raises(EngineDead):
            await read_to_end(generation)
        assert generation.usage == Usage(prompt_tokens=2, completion_tokens=1, cached_tokens=1)
    async with model_of() as model, model.run(ask("one two")) as generation:
        *_, finished = [event async for event in generation]
        assert isinstance(finished, Finished)
        assert generation.usage == finished.usage


async def test_a_request_that_nobody_has_read_is_read_by_the_engine() -> None:
    async with model_of() as model:
        messages = UnreadArray(b'[{"role":"user","content":"one two"}]')
        unread = ChatRequest(model_id="org/fake", messages=messages, template_kwargs=UnreadObject(b"{}"))
        async with model.run(unread) as generation:
            events = [event async for event in generation]
        assert events[0] == Started(prompt_tokens=2)
        assert isinstance(events[-1], Finished)


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("image_url", "vision_unsupported"),
        ("input_image", "vision_unsupported"),
        ("input_audio", "audio_unsupported"),
        ("video_url", "video_unsupported"),
        ("input_file", "file_unsupported"),
    ],
)
async def test_what_is_no_text_is_refused_by_its_kind(part: str, code: str) -> None:
    async with model_of() as model:
        with pytest.raises(UnsupportedCapability) as caught:
            async with model.run(ask([{"type": "text", "text": "see"}, {"type": part}])):
                pytest.fail("it was entered")
    assert caught.value.code == code


async def test_a_bias_of_a_token_that_the_model_has_not_is_refused_by_name() -> None:
    async with model_of("words") as model:
        request = replace(ask("one"), sampling=SamplingParams(logit_bias={9: 1.0, 10: 1.0}))
        with pytest.raises(InvalidRequest, match="tokens 0 to 9") as caught:
            async with model.run(request):
                pytest.fail("it was entered")
        assert caught.value.param == "logit_bias.10"
        async with model.run(replace(request, sampling=SamplingParams(logit_bias={9: 1.0}))):
            pass


async def test_a_token_that_stops_and_that_the_model_has_not_is_refused_by_name() -> None:
    async with model_of("words") as model:
        request = replace(ask("one"), sampling=SamplingParams(stop_token_ids=(9, 10)))
        with pytest.raises(InvalidRequest, match="no token 10, the model has tokens 0 to 9") as caught:
            async with model.run(request):
                pytest.fail("it was entered")
        assert caught.value.param == "stop_token_ids"


async def test_a_prompt_that_fitted_is_too_long_for_the_next_engine_whose_context_is_smaller() -> None:
    async with model_of(then="small", policy=patient()) as model:
        assert isinstance((await reply_to(model, "a b c d"))[-1], Finished)
        await die(model._supervisor.require_engine())
        await until(lambda: model.info().status is ModelStatus.LOADED)
        assert model.info().limit == ModelLimit(context=4, input=3, output=4)
        with pytest.raises(PromptTooLong) as caught:
            await reply_to(model, "a b c d")
        assert caught.value.fields == {"prompt_len": 4, "max": 3}
        assert isinstance((await reply_to(model, "a b c"))[-1], Finished)


async def test_a_prompt_that_waited_when_its_engine_died_is_measured_anew() -> None:
    async with model_of("silent", then="small", policy=patient()) as model:
        async with anyio.create_task_group() as tasks:
            askers = Askers(tasks, model, "a b c d")
            await kill_engine(model, requests=1)
        assert [type(error) for error in askers.refusals] == [PromptTooLong]


async def test_who_finds_the_queue_full_is_refused_before_its_prompt_is_read() -> None:
    async with model_of("stuck-after-delta", queue=0) as model, model.run(ask("one")):
        for prompt in ("two", "a prompt that is far too long"):  # which reading it would have shown
            with pytest.raises(Overloaded):
                await reply_to(model, prompt)
        assert model.load().rejected_queue_full == 2


async def test_vectors_come_one_by_one_and_are_billed_as_one() -> None:
    task = Embed(model_id="org/fake", inputs=("one", "three", (1, 2)))
    async with model_of("vectors", seats=2) as model:
        async with model.run(task) as reply:
            events = [event async for event in reply]
            assert (model.load().in_flight, model.load().queue_depth) == (0, 0)
        with pytest.raises(WrongModality):
            await reply_to(model, "Hello")
    assert events == [
        Started(prompt_tokens=3),
        Embedding(2, (2.0, 0.5)),
        Embedding(1, (5.0, 0.5)),
        Embedding(0, (3.0, 0.5)),
        Finished(reasons=(FinishReason.STOP,), usage=Usage(prompt_tokens=3, completion_tokens=0, prefill_ms=250)),
    ]


async def events_of(model: LlamaCppModel, task: Task) -> list[GenerationEvent]:
    async with model.run(task) as reply:
        return [event async for event in reply]


async def test_vectors_are_cut_to_the_dimensions_that_are_wanted() -> None:
    async with model_of("vectors") as model:
        _, vector, _ = await events_of(model, Embed(model_id="org/fake", inputs=("three",), dimensions=1))
    assert vector == Embedding(0, (1.0,))


async def test_the_outputs_of_a_reranker_become_degrees_of_relevance() -> None:
    task = Rerank(model_id="org/fake", query="four", documents=("two", "four", "seven"))
    async with model_of("ranks", seats=2) as model:
        events = await events_of(model, task)
        assert (model.load().in_flight, model.load().queue_depth) == (0, 0)
    started, *scores, finished = events
    assert started == Started(prompt_tokens=3)
    degrees = [(event.index, round(event.score, 3)) for event in scores if isinstance(event, Relevance)]
    assert degrees == [(2, 0.731), (1, 0.5), (0, 0.269)]
    assert isinstance(finished, Finished)
    assert finished.usage.prompt_tokens == 3


async def test_a_vector_that_is_not_made_of_numbers_is_never_given_out() -> None:
    async with model_of("vectors") as model:
        with pytest.raises(EngineFailed, match="computed no numbers of text 1 of the request"):
            await events_of(model, Embed(model_id="org/fake", inputs=("one", "NaN")))
        assert len(await events_of(model, Embed(model_id="org/fake", inputs=("one",)))) == 3


LONG_QUERY = "q" * 2049


@pytest.mark.parametrize(
    ("task", "param"),
    [
        (Embed(model_id="org/fake", inputs=()), "input"),
        (Embed(model_id="org/fake", inputs=("one",), dimensions=3), "dimensions"),
        (Embed(model_id="org/fake", inputs=("one",), dimensions=0), "dimensions"),
        (Embed(model_id="org/fake", inputs=("one",) * (2**21 + 1)), "input"),
        (Rerank(model_id="org/fake", query="", documents=("one",)), "query"),
        (Rerank(model_id="org/fake", query="which?", documents=()), "documents"),
        (Rerank(model_id="org/fake", query=LONG_QUERY, documents=("one",) * 2048), "query"),
    ],
    ids=["no input", "wide", "narrow", "too many numbers", "no query", "no documents", "a long query, often"],
)
async def test_vectors_and_scores_that_cannot_be_made_are_refused_by_name(task: Task, param: str) -> None:
    async with model_of("vectors" if isinstance(task, Embed) else "ranks") as model:
        with pytest.raises(InvalidRequest) as caught:
            async with model.run(task):
                pytest.fail("it was entered")
        assert caught.value.param == param


READINGS: list[tuple[Task, Tokenized | Detokenized]] = [
    (
        Tokenize(model_id="org/fake", prompt="one three", wants_text=True, wants_pieces=True),
        Tokenized(tokens=(3, 5), context=64, text="one three", pieces=(b"one", b"three")),
    ),
    (Tokenize(model_id="org/fake", prompt="one three"), Tokenized(tokens=(3, 5), context=64)),
    (Tokenize(model_id="org/fake", prompt=ask("one three")), Tokenized(tokens=(3, 5), context=64)),
    (Detokenize(model_id="org/fake", tokens=(3, 5)), Detokenized("xxx xxxxx")),
]


async def read_off(model: LlamaCppModel, task: Task) -> list[GenerationEvent]:
    async with model.run(task) as reply:
        return [event async for event in reply]


@pytest.mark.parametrize(("task", "answer"), READINGS)
async def test_tokens_are_told_while_all_seats_are_taken_and_nothing_is_computed(
    task: Task, answer: Tokenized | Detokenized
) -> None:
    async with model_of("stuck-after-delta", seats=1) as model, model.run(ask("one")):
        events = await read_off(model, task)
        assert (model.load().in_flight, model.load().queue_depth) == (1, 0)
    usage = Usage(prompt_tokens=2, completion_tokens=0)
    assert events == [Started(prompt_tokens=2), answer, Finished(reasons=(FinishReason.STOP,), usage=usage)]


async def test_tokens_that_an_engine_died_over_are_told_by_the_next() -> None:
    task, answer = READINGS[0]
    async with model_of("segv-at-prepare") as model:
        assert (await read_off(model, task))[1] == answer
        assert model.load().engine_restarts == 1


async def test_a_chat_with_an_image_has_no_tokens_either() -> None:
    chat = ask([{"type": "image_url"}])
    async with model_of() as model:
        with pytest.raises(UnsupportedCapability, match="reads text only"):
            await read_off(model, Tokenize(model_id="org/fake", prompt=chat))
        assert engine_of(model).submitted == []


async def test_closing_admission_refuses_those_who_wait_at_once() -> None:
    async with (
        model_of("stuck-after-delta") as model,
        model.run(ask("one")),
        anyio.create_task_group() as tasks,
    ):
        askers = Askers(tasks, model, "two", "three")
        await until(lambda: model.load().queue_depth == 2)
        model.close_admission(ShuttingDown)
        await until(lambda: len(askers.refusals) == 2)
        assert [type(error) for error in askers.refusals] == [ShuttingDown] * 2
        assert (model.load().in_flight, model.load().queue_depth) == (1, 0)


async def test_whoever_waits_for_the_next_engine_when_admission_closes_is_refused_and_not_submitted() -> None:
    async with model_of("silent", policy=RestartPolicy(first_pause_s=0.2)) as model:
        async with anyio.create_task_group() as tasks:
            askers = Askers(tasks, model, "one")
            await until(lambda: model.load().queue_depth == 1)
            await die(model._supervisor.require_engine())
            await let_others_run()
            model.close_admission(ShuttingDown)
        assert [type(error) for error in askers.refusals] == [ShuttingDown]
        assert engine_of(model).submitted == []


@pytest.mark.parametrize("is_free", [True, False])
async def test_without_patience_a_request_gets_a_free_seat_or_is_refused_at_once(is_free: bool) -> None:  # noqa: FBT001 - a parameter
    async with model_of("stuck-after-delta", seats=2, max_wait_s=0) as model:
        request = replace(ask("one"), choices=1 if is_free else 2)
        async with model.run(request):
            if is_free:
                async with model.run(ask("two")) as second:
                    assert await anext(second) == Started(prompt_tokens=1)
                return
            with pytest.raises(Overloaded, match=r"no seat became free within 0 s") as caught:
                await reply_to(model, "two")
            assert caught.value.reason is OverloadReason.WAIT_EXPIRED
            assert (model.load().rejected_timeout, model.load().queue_depth) == (1, 0)


async def test_requests_that_waited_when_their_engine_died_are_submitted_again_in_the_order_of_their_arrival() -> None:
    texts = [f"number {number}" for number in range(8)]
    async with model_of("silent", then="stuck-after-delta", queue=8) as model, anyio.create_task_group() as tasks:
        for count, text in enumerate(texts):
            Askers(tasks, model, text)
            await until(lambda expected=count + 1: model.load().queue_depth == expected)  # type: ignore[misc]
        await die(model._supervisor.require_engine())
        await until(lambda: model.load().in_flight == 1)
        await let_others_run(100)
        assert engine_of(model).submitted == [1, 2, 3, 4, 5, 6, 7, 8]
        tasks.cancel_scope.cancel()


async def test_a_reply_whose_engine_died_holds_no_seat_until_the_next_engine_has_begun_it() -> None:
    async with (
        model_of("stuck-after-delta", policy=RestartPolicy(first_pause_s=60)) as model,
        anyio.create_task_group() as tasks,
    ):
        Askers(tasks, model, "one two")
        await until(lambda: model.load().in_flight == 1)
        await die(model._supervisor.require_engine())
        await until(lambda: (model.load().in_flight, model.load().queue_depth) == (0, 1))
        tasks.cancel_scope.cancel()


async def test_a_reply_that_is_tried_again_waits_in_its_old_place_before_all_who_came_later() -> None:
    async with model_of("stuck-after-delta", then="normal") as model, anyio.create_task_group() as tasks:
        first = Askers(tasks, model, "one two")
        await until(lambda: model.load().in_flight == 1)
        second = Askers(tasks, model, "three four")
        await until(lambda: model.load().queue_depth == 1)
        await die(model._supervisor.require_engine())
        await until(lambda: model.load().in_flight == model.load().queue_depth == 0)
        assert engine_of(model).submitted == [1, 2]
        assert [first.generations[0].retried, second.generations[0].retried] == [True, False]


async def test_a_text_is_gone_on_with_and_nothing_in_it_is_reasoning_or_a_call() -> None:
    task = Complete(model_id="org/fake", prompt="<think> a </think> <tool_call>")
    async with model_of("markers") as model, model.run(task) as reply:
        events = [event async for event in reply]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "<think> a </think> <tool_call> !"


def texts_of(events: Sequence[GenerationEvent]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.choice] = texts.get(event.choice, "") + event.text
    return texts


async def test_every_prompt_gets_its_choices_and_is_billed_once() -> None:
    task = Complete(model_id="org/fake", prompt="one", more_prompts=("a b", (7, 8)), choices=2)
    async with model_of("normal", seats=2) as model:
        async with model.run(task) as reply:
            assert model.load().in_flight == 2
            events = [event async for event in reply]
        assert (model.load().in_flight, model.load().queue_depth) == (0, 0)
    assert texts_of(events) == {0: "one !", 1: "one !", 2: "a b !", 3: "a b !", 4: "7 8 !", 5: "7 8 !"}
    assert events[0] == Started(prompt_tokens=5)
    assert isinstance(events[-1], Finished)
    assert events[-1].reasons == (FinishReason.STOP,) * 6
    assert (events[-1].usage.prompt_tokens, events[-1].usage.cached_tokens) == (5, 3)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_reply_with_an_echo_begins_with_the_text_of_its_prompt(*, whole: bool) -> None:
    task = Complete(model_id="org/fake", prompt="one", more_prompts=((7, 8),), echo=True, choices=2, whole=whole)
    async with model_of("normal", seats=4) as model, model.run(task) as reply:
        events = [event async for event in reply]
    assert events[1:5] == [TextDelta("one", 0), TextDelta("one", 1), TextDelta("7 8", 2), TextDelta("7 8", 3)]
    assert texts_of(events) == {0: "oneone !", 1: "oneone !", 2: "7 87 8 !", 3: "7 87 8 !"}


async def test_an_echo_is_written_once_although_the_reply_is_begun_again() -> None:
    task = Complete(model_id="org/fake", prompt="one", echo=True)
    async with model_of("segv-at-start") as model, model.run(task) as reply:
        events = [event async for event in reply]
    assert texts_of(events) == {0: "oneone !"}


async def test_an_echo_with_log_probabilities_is_refused_by_name() -> None:
    async with model_of() as model:
        with pytest.raises(InvalidRequest) as caught:
            await read_off(model, Complete(model_id="org/fake", prompt="one", echo=True, top_logprobs=0))
        assert caught.value.param == "echo"
        assert engine_of(model).submitted == []


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (Embed(model_id="org/fake", inputs=("one",)), "embeddings_unsupported"),
        (Complete(model_id="org/fake", prompt="one", adapter="pirate"), "adapter_unsupported"),
    ],
)
async def test_a_task_that_the_model_cannot_do_is_refused_by_name_before_any_engine_hears_of_it(
    task: Task, code: str
) -> None:
    async with model_of() as model:
        with pytest.raises(UnsupportedCapability) as caught:
            async with model.run(task):
                pytest.fail("it was entered")
        assert caught.value.code == code
        assert engine_of(model).submitted == []


async def test_closing_admission_refuses_newcomers_and_lets_running_replies_end() -> None:
    async with model_of() as model, model.run(ask("one")) as running:
        model.close_admission(ShuttingDown)
        with pytest.raises(ShuttingDown):
            await reply_to(model, "two")
        assert isinstance([event async for event in running][-1], Finished)


async def test_a_seat_goes_to_the_one_who_waits_when_its_holder_leaves_early() -> None:
    async with model_of() as model, anyio.create_task_group() as tasks:
        replies: list[list[GenerationEvent]] = []

        async def wait_in_line() -> None:
            replies.append(await reply_to(model, "two"))

        async with model.run(ask("stuck-after-delta")):
            tasks.start_soon(wait_in_line)
            while model.load().queue_depth == 0:
                await let_others_run()
        # The first reply was abandoned in the middle.
        while not replies:
            await let_others_run()
        assert isinstance(replies[0][-1], Finished)


async def test_a_reply_that_nobody_reads_keeps_its_seat_only_as_long_as_it_is_made() -> None:
    async with model_of() as model, model.run(ask("one two")) as unread:
        await until(lambda: model.load().in_flight == 0)
        assert isinstance((await reply_to(model, "three"))[-1], Finished)
        *_, last = [event async for event in unread]
        assert isinstance(last, Finished)


async def test_a_reply_that_broke_frees_its_seat_before_anybody_reads_so() -> None:
    async with model_of("broken-after-delta", queue=0) as model, model.run(ask("one two")):
        await let_others_run()
        assert model.load().in_flight == 0


async def test_a_reply_that_was_lost_with_its_engine_holds_no_seat_of_the_next_one() -> None:
    async with model_of("segv-after-delta") as model, model.run(ask("one two")):
        await until(lambda: model.load().engine_restarts == 1 and model.info().status is ModelStatus.LOADED)
        async with model.run(ask("stuck-after-delta")):
            assert model.load().in_flight == 1


async def test_inputs_take_turns_on_one_seat_until_the_last_has_its_vector() -> None:
    events: list[GenerationEvent] = []
    in_flight = []

    async def embed() -> None:
        async with model.run(Embed(model_id="org/fake", inputs=("a", "b", "c"))) as generation:
            events.extend([event async for event in generation])

    async with model_of("vectors-silent", seats=2) as model:
        engine = engine_of(model)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(embed)
            await until(lambda: "with 1 requests" in repr(engine))
            engine._take(Prepared(request=1, prompt_tokens=3))
            engine._take(Began(1, replies=3))
            for choice in range(3):
                engine._take(
                    StepEvents(1, (Vector(request=1, choice=choice, values=b"", prompt_tokens=1, prefill_s=0),))
                )
                in_flight.append(model.load().in_flight)
    assert in_flight == [1, 1, 0]
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("max_wait_s", [0.0, 600.0])
async def test_a_request_that_waits_for_cells_beside_free_seats_is_refused_for_its_cells_in_their_time(
    max_wait_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuron_lib.llamacpp.reply._BEGIN_LIMIT_S", 600)
    async with (
        model_of("cells-silent", seats=2, max_wait_s=max_wait_s, kv_max_wait_s=0.01) as model,
        anyio.create_task_group() as tasks,
    ):
        engine = engine_of(model)
        Askers(tasks, model, "one")
        await until(lambda: "with 1 requests" in repr(engine))
        engine._take(Prepared(request=1, prompt_tokens=1, cells=60))
        engine._take(Began(1))
        load = model.load()
        assert (load.in_flight, load.kv_budget_mb, load.kv_available_mb) == (1, 100, 40)
        waiting = Askers(tasks, model, "two")
        await until(lambda: "with 2 requests" in repr(engine))
        engine._take(Prepared(request=2, prompt_tokens=1, cells=41))
        await until(lambda: bool(waiting.refusals))
        (refusal,) = waiting.refusals
        assert isinstance(refusal, KvWaitExpired)
        assert refusal.fields == {"free_mb": 100, "required_mb": 41}
        assert (model.load().rejected_kv_timeout, model.load().queue_depth) == (1, 0)
        tasks.cancel_scope.cancel()


async def test_a_request_that_needs_more_cells_than_there_are_is_refused_and_counted() -> None:
    async with model_of("cells-silent") as model, anyio.create_task_group() as tasks:
        engine = engine_of(model)
        asker = Askers(tasks, model, "one")
        await until(lambda: "with 1 requests" in repr(engine))
        engine._take(Refused(1, to_frame(TooLargeForKv("too large", required_mb=101, budget_mb=100))))
        await until(lambda: bool(asker.refusals))
        assert isinstance(asker.refusals[0], TooLargeForKv)
        assert (model.load().rejected_kv_unservable, model.load().queue_depth) == (1, 0)


async def test_a_request_that_was_refused_does_not_begin_though_its_engine_begins_it() -> None:
    async def ask_for_one() -> None:
        with pytest.raises(ShuttingDown):
            async with model.run(ask("one")):
                pytest.fail("it was entered")

    async with model_of("silent") as model, anyio.create_task_group() as tasks:
        engine = engine_of(model)
        tasks.start_soon(ask_for_one)
        await until(lambda: "with 1 requests" in repr(engine))
        await let_others_run()
        model.close_admission(ShuttingDown)
        engine._take(Prepared(request=1, prompt_tokens=1))
        engine._take(Began(1))


async def test_a_reader_cancelled_while_it_waits_for_a_seat_leaves_the_queue() -> None:
    async with model_of("stuck-after-delta") as model, model.run(ask("one")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reply_to, model, "two")
            while model.load().queue_depth == 0:
                await let_others_run()
            tasks.cancel_scope.cancel()
        assert (model.load().queue_depth, model.load().in_flight) == (0, 1)
        assert "with 1 requests" in repr(model)


@EITHER
async def test_an_engine_that_dies_mid_reply_is_told_after_the_text_it_gave_and_the_next_one_serves(
    *, in_process: bool
) -> None:
    async with model_of("segv-after-delta", in_process=in_process) as model:
        generation = model.run(ask("one two"))
        async with generation:
            assert [await anext(generation) for _ in range(2)] == [Started(prompt_tokens=2), TextDelta("one ")]
            with pytest.raises(EngineDead, match="SIGSEGV"):
                await anext(generation)
        assert not generation.retried
        await until(lambda: model.info().status is ModelStatus.LOADED)
        assert isinstance((await reply_to(model, "again"))[-1], Finished)
        load = model.load()
        assert (load.in_flight, load.engine_restarts, load.last_engine_death) == (0, 1, "killed by SIGSEGV")


@EITHER
@pytest.mark.parametrize("mode", ["segv-at-prepare", "segv-at-start"])
async def test_a_request_whose_engine_dies_before_it_said_anything_is_tried_once_more(
    mode: str, *, in_process: bool
) -> None:
    async with model_of(mode, in_process=in_process) as model:
        generation = model.run(ask("one two"))
        async with generation:
            events = [event async for event in generation]
        assert generation.retried
        assert [type(event) for event in events] == [Started, TextDelta, TextDelta, TextDelta, Finished]
        assert model.load().in_flight == 0


@EITHER
async def test_a_reply_that_is_wanted_whole_is_made_again_until_its_end(*, in_process: bool) -> None:
    async with model_of("segv-after-delta", in_process=in_process) as model:
        generation = model.run(msgspec.structs.replace(ask("one two"), whole=True))
        async with generation:
            events = [event async for event in generation]
        assert generation.retried
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["one ", "two ", "!"]
        assert [type(event) for event in (events[0], events[-1])] == [Started, Finished]
        assert [type(event) for event in events].count(Started) == 1


@pytest.mark.parametrize("turns", [5, 10, 20])
async def test_a_reader_who_does_not_wait_long_each_time_gets_the_same_reply_from_the_next_engine(turns: int) -> None:
    events: list[GenerationEvent] = []

    async def read_one() -> None:
        events.append(await anext(generation))

    async with (
        model_of("segv-after-delta") as model,
        model.run(msgspec.structs.replace(ask("one two"), whole=True)) as generation,
    ):
        while not (events and isinstance(events[-1], Finished)):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read_one)
                await let_others_run(turns)
                tasks.cancel_scope.cancel()
    assert [type(event) for event in events] == [Started, TextDelta, TextDelta, TextDelta, Finished]


@pytest.mark.parametrize("mode", ["segv-at-prepare", "segv-at-start"])
async def test_a_request_that_was_there_when_two_engines_died_is_suspect(mode: str) -> None:
    policy = RestartPolicy(most_deaths=9, first_pause_s=0.01)
    async with model_of(mode, then=mode, policy=policy) as model:
        with pytest.raises(SuspectRequest, match="SIGSEGV; then killed by SIGSEGV"):
            await reply_to(model, "one two")
        assert model.load().in_flight == 0


async def test_a_request_that_waits_for_its_seat_outlives_an_engine_and_is_not_suspected() -> None:
    replies: list[list[GenerationEvent]] = []

    async def wait() -> None:
        async with model.run(ask("four five")) as generation:
            replies.append([event async for event in generation])
            assert not generation.retried

    async with (
        model_of("stuck-after-delta") as model,
        anyio.create_task_group() as tasks,
        model.run(ask("one two")) as running,
    ):
        engine = model._supervisor.require_engine()
        tasks.start_soon(wait)
        # It is in the line, and not what the engine is working on: not sent yet, or prepared already.
        await until(lambda: model.load().queue_depth == 1 and len(engine.at_work) == 1)
        assert isinstance(engine, MemoryEngine)
        engine.kill()
        with pytest.raises(EngineDead):
            await read_to_end(running)
        await until(lambda: model.info().status is ModelStatus.LOADED)
    assert isinstance(replies[0][-1], Finished)


async def kill_engine(model: LlamaCppModel, *, requests: int, in_hand: int = 0) -> None:
    """End the engine that serves, once it knows of that many requests and works on so many."""

    def knows_them() -> bool:
        engine = model._supervisor.engine
        if engine is None or len(engine.at_work) < in_hand:
            return False
        return f"with {requests} requests" in repr(engine)

    await until(knows_them)
    await die(model._supervisor.require_engine())


class Askers:
    """Clients that want a whole reply each, and what became of them."""

    def __init__(self, tasks: TaskGroup, model: LlamaCppModel, *texts: str) -> None:
        self.model = model
        self.refusals: list[Exception] = []
        self.generations: list[Reply] = []
        for text in texts:
            tasks.start_soon(self.ask, text)

    async def ask(self, text: str) -> None:
        generation = self.model.run(msgspec.structs.replace(ask(text), whole=True))
        self.generations.append(generation)
        try:
            async with generation:
                await read_to_end(generation)
        except NeuronError as error:
            self.refusals.append(error)


def patient() -> RestartPolicy:
    return RestartPolicy(most_deaths=9, first_pause_s=0.01, longest_pause_s=0.01)


async def test_a_request_counts_from_before_its_prompt_is_read_and_does_not_when_its_client_leaves() -> None:
    async with model_of("silent", queue=1) as model, anyio.create_task_group() as tasks:
        Askers(tasks, model, "one", "two")
        await until(lambda: model.load().queue_depth == 2)
        with pytest.raises(Overloaded) as caught:
            await reply_to(model, "three")
        assert caught.value.reason is OverloadReason.QUEUE_FULL
        tasks.cancel_scope.cancel()
    assert (model.load().in_flight, model.load().queue_depth) == (0, 0)


async def test_prompts_of_clients_who_left_before_the_engine_read_them_are_not_kept() -> None:
    prompt, prompts = "x" * 1_000_000, [f"client {number}" for number in range(8)]
    async with model_of("silent", queue=8) as model:
        await until(lambda: model._supervisor.engine is not None)
        tracemalloc.start()
        try:
            async with anyio.create_task_group() as tasks:
                Askers(tasks, model, *(f"{name} {prompt}" for name in prompts))
                await until(lambda: model.load().queue_depth == len(prompts))
                assert tracemalloc.get_traced_memory()[0] > len(prompts) * len(prompt)
                tasks.cancel_scope.cancel()
            gc.collect()
            # The first one is half sent.
            assert tracemalloc.get_traced_memory()[0] < 4 * len(prompt)
        finally:
            tracemalloc.stop()


async def test_a_prompt_that_is_not_read_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.llamacpp.reply._PREPARE_LIMIT_S", 0.01)
    async with model_of("silent", max_wait_s=0.01) as model:
        with pytest.raises(Overloaded, match=r"was not read within 0\.01 s") as caught:
            await reply_to(model, "one")
        assert caught.value.reason is OverloadReason.WAIT_EXPIRED
        assert (model.load().rejected_timeout, model.load().queue_depth) == (1, 0)


async def test_of_the_requests_that_wait_to_be_prepared_when_an_engine_dies_only_the_one_in_hand_is_tried_again() -> (
    None
):
    async with (
        model_of("stuck-at-prepare", then="stuck-at-prepare", policy=patient()) as model,
        anyio.create_task_group() as tasks,
    ):
        askers = Askers(tasks, model, "one", "two", "three")
        await kill_engine(model, requests=3, in_hand=1)
        await until(lambda: model.load().engine_restarts == 1)
        await kill_engine(model, requests=3, in_hand=1)
        await let_others_run()
        # Which one comes first the second time is up to the scheduler.
        assert len(askers.refusals) <= 1
        assert 3 - len(askers.refusals) == model.load().queue_depth
        assert 1 <= sum(generation.retried for generation in askers.generations) <= 2
        tasks.cancel_scope.cancel()


async def test_requests_that_an_engine_has_not_touched_are_not_blamed_for_its_death() -> None:
    async with model_of("silent", then="silent", policy=patient()) as model, anyio.create_task_group() as tasks:
        askers = Askers(tasks, model, "one", "two", "three")
        await kill_engine(model, requests=3)
        await until(lambda: model.load().engine_restarts == 1)
        await kill_engine(model, requests=3)
        await until(lambda: model.load().engine_restarts == 2)
        assert askers.refusals == []
        assert not any(generation.retried for generation in askers.generations)
        tasks.cancel_scope.cancel()


async def test_a_request_that_was_alone_in_two_engines_that_died_takes_no_third_one_along() -> None:
    async with model_of("segv-at-start", between=["segv-at-start"], policy=patient()) as model:
        poison = ask("one two")
        for _ in range(3):
            for request in (poison, msgspec.structs.replace(poison, whole=True, principal=Principal("other", "key"))):
                with pytest.raises(SuspectRequest, match="SIGSEGV; then killed by SIGSEGV"):
                    async with model.run(request) as generation:
                        await read_to_end(generation)
                await until(lambda: model.info().status is ModelStatus.LOADED)
        assert isinstance((await reply_to(model, "another"))[-1], Finished)
        assert model.load().engine_restarts == 2


async def test_a_stream_that_broke_with_two_engines_it_was_alone_in_is_not_begun_a_third_time() -> None:
    async with model_of("segv-after-delta", then="segv-after-delta", policy=patient()) as model:
        for error in (EngineDead, EngineDead, SuspectRequest):
            with pytest.raises(error):
                await reply_to(model, "one two")
            await until(lambda: model.info().status is ModelStatus.LOADED)
        assert model.load().engine_restarts == 2


async def test_of_requests_that_were_together_in_engines_that_died_none_is_remembered() -> None:
    async with (
        model_of("stuck-after-delta", between=["stuck-after-delta"], seats=2, policy=patient()) as model,
        anyio.create_task_group() as tasks,
    ):
        askers = Askers(tasks, model, "one two", "three four")

        def both_are_in_hand() -> bool:
            engine = model._supervisor.engine
            return engine is not None and len(engine.at_work) == 2

        for _ in range(2):
            await until(both_are_in_hand)
            await kill_engine(model, requests=2)
        await until(lambda: len(askers.refusals) == 2)
        assert [type(error) for error in askers.refusals] == [SuspectRequest] * 2
        await until(lambda: model.info().status is ModelStatus.LOADED)
        for text in ("one two", "three four"):
            assert isinstance((await reply_to(model, text))[-1], Finished)


async def leave_in_mid_reply(model: LlamaCppModel, text: str) -> EngineClient:
    """A client that gives up when the reply has begun; returns the engine that was told."""
    await until(lambda: model.info().status is ModelStatus.LOADED)
    engine = model._supervisor.require_engine()
    async with model.run(ask(text)) as generation:
        await anext(generation)
        assert isinstance(await anext(generation), TextDelta)
    return engine


async def die(engine: EngineClient) -> None:
    assert isinstance(engine, MemoryEngine)
    engine.kill()
    await engine.wait_dead()


async def hang_and_die_with_a_bystander(model: LlamaCppModel) -> list[Exception]:
    """A client gives up on a step that hangs, another one goes on waiting; returns what the latter was refused with."""
    engine = await leave_in_mid_reply(model, "hung-after-delta two")
    hung = engine.at_work
    async with anyio.create_task_group() as tasks:
        askers = Askers(tasks, model, "innocent")
        await until(lambda: model.load().queue_depth == 1)
        await let_others_run(100)
        assert engine.at_work == hung  # the newcomer is prepared, and waits for the seat
        await die(engine)
    return askers.refusals


async def test_a_request_whose_client_gave_up_on_a_step_that_hangs_makes_nobody_else_suspect() -> None:
    async with model_of(policy=patient()) as model:
        for _ in range(2):
            assert await hang_and_die_with_a_bystander(model) == []
        assert isinstance((await reply_to(model, "innocent"))[-1], Finished)
        assert model.load().engine_restarts == 2


async def test_a_request_that_was_alone_in_two_engines_that_died_is_suspect_though_its_client_had_left() -> None:
    poison = "hung-after-delta two"
    async with model_of(policy=patient()) as model:
        for _ in range(2):
            await die(await leave_in_mid_reply(model, poison))
        await until(lambda: model.info().status is ModelStatus.LOADED)
        with pytest.raises(SuspectRequest, match="SIGKILL; then killed by SIGKILL"):
            await leave_in_mid_reply(model, poison)
        assert isinstance((await reply_to(model, "another"))[-1], Finished)


async def test_a_request_that_the_engine_has_left_is_not_blamed_for_what_comes_after() -> None:
    async def leave_and_be_left(model: LlamaCppModel) -> EngineClient:
        engine = await leave_in_mid_reply(model, "stuck-after-delta two")
        await until(lambda: not engine.at_work)
        return engine

    async with model_of(policy=patient()) as model:
        for _ in range(2):
            await die(await leave_and_be_left(model))
        await leave_and_be_left(model)


async def test_a_reply_that_an_unload_ends_is_not_said_to_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with anyio.create_task_group() as tasks, model_of("stuck-after-delta") as model:
        askers = Askers(tasks, model, "one two")
        await until(lambda: model.load().in_flight == 1)
    (refusal,) = askers.refusals
    assert isinstance(refusal, EngineDead)
    assert refusal.reason == "the model was unloaded"
    assert not askers.generations[0].retried
    assert "once more" not in caplog.text


async def test_while_the_next_engine_is_awaited_a_newcomer_is_told_when_to_come_back() -> None:
    async with model_of("segv-after-delta", policy=RestartPolicy(first_pause_s=60)) as model:
        assert (model.info().status, model.info().servable) == (ModelStatus.LOADED, Servable(ok=True))
        with pytest.raises(EngineDead):
            await reply_to(model, "one two")
        assert (model.info().status, model.info().servable) == (ModelStatus.RECOVERING, None)
        with pytest.raises(Overloaded, match="started again") as caught:
            await reply_to(model, "three")
        assert (caught.value.reason, caught.value.retry_after_s) == (OverloadReason.ENGINE_LOST, 2)


async def test_a_model_whose_engine_stands_still_is_not_servable_long_before_the_engine_is_ended() -> None:
    async with model_of("stuck-after-delta") as model, model.run(ask("one two")):
        standstill = model._supervisor.require_engine()._watchdog
        await until(lambda: model._supervisor.require_engine().last_beat is not None)
        while standstill.suspicion is None:
            standstill.look()
        assert standstill.verdict is None
        stalled = model.info()
        assert stalled.status is ModelStatus.LOADED
        assert stalled.servable is not None
        assert (stalled.servable.ok, stalled.servable.reason) == (False, "stalled")
        assert "silent for" in str(stalled.servable.detail)


async def test_what_an_engine_has_counted_is_told_with_the_size_of_its_cache_once_it_has_beaten() -> None:
    async with model_of() as model:
        engine = model._supervisor.require_engine()
        model._supervisor.latest._facts = replace(engine.facts, kv_cells=512)
        assert model.measures() is None
        engine.last_beat = Beat(step=1, in_flight=0, rss_bytes=1)
        assert model.measures() is None
        counted = EngineMeasures(token_gaps=Distribution(bounds=(), counts=(0,), sum=0.0), kv_cells_held=7)
        engine.last_beat = Beat(step=1, in_flight=0, rss_bytes=1, measures=counted)
        assert model.measures() == replace(counted, kv_cells=512)


async def test_the_measured_speed_bounds_prompts_as_it_is_shown() -> None:
    async with model_of() as model:
        model._prefill_target_s, model._max_prompt_tokens = 100.0, 16384
        engine = model._supervisor.require_engine()
        model._supervisor.latest._facts = replace(engine.facts, n_ctx=16384)
        limit = model.info().limit
        assert limit is not None
        assert limit.context == 16384
        gaps = Distribution(bounds=(), counts=(0,), sum=0.0)
        engine.last_beat = Beat(
            step=1, in_flight=0, rss_bytes=1, measures=EngineMeasures(token_gaps=gaps, prefill_tok_s=80.0)
        )
        assert model.info().limit == ModelLimit(context=7168, input=7167, output=100)
        engine.last_beat = None
        assert model.info().limit == limit


async def test_a_model_whose_engines_die_three_times_is_lost_and_nobody_waits_for_it_any_more() -> None:
    async with model_of("segv-at-start", then="fatal-at-load") as model:
        with pytest.raises(
            EngineDead,
            match="died 3 times within 10 minutes, the last time so: the engine could not load the model: not a",
        ):
            await reply_to(model, "one two")
        assert "3 times" in await model.wait_lost()
        assert model.load().in_flight == 0


async def test_unloading_does_not_wait_for_a_pause_and_tells_those_who_do() -> None:
    told: list[str] = []

    async def wait(model: LlamaCppModel) -> None:
        with pytest.raises(EngineDead) as caught:
            await reply_to(model, "one two")
        told.append(caught.value.reason)

    policy = RestartPolicy(first_pause_s=3600)
    async with anyio.create_task_group() as tasks, model_of("segv-at-start", policy=policy) as model:
        tasks.start_soon(wait, model)
        await until(lambda: model.info().status is ModelStatus.RECOVERING)
        await let_others_run()
    assert told == ["the model was unloaded"]


@EITHER
async def test_a_reply_that_breaks_alone_raises_and_the_next_one_is_served(*, in_process: bool) -> None:
    async with model_of("broken-after-delta", in_process=in_process) as model:
        for _ in range(2):
            with pytest.raises(EngineFailed, match="no cells left"):
                await reply_to(model, "one two")
