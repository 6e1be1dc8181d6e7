import anyio
import pytest
from msgspec.structs import replace

from neuron_lib import (
    ChatRequest,
    Complete,
    Detokenize,
    Detokenized,
    EngineDead,
    Finished,
    FinishReason,
    GenerationEvent,
    LoadProgress,
    LoadStage,
    ModelSpec,
    ModelStatus,
    NeuronError,
    Overloaded,
    ReasoningDelta,
    Registry,
    Started,
    TextDelta,
    Tokenize,
    Tokenized,
    Usage,
)
from neuron_lib.errors import EngineFailed, InvalidRequest, OverloadReason, PromptTooLong
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import Embed, Embedding, Likely, Relevance, Rerank, Task, TokenLogprob
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

SPEC = ModelSpec(model_id="o/a", harness="scripted")
REQUEST = ChatRequest(model_id="o/a", messages=({"role": "user", "content": "Hi"},))


async def reply_of(script: ScriptedModel, request: Task = REQUEST) -> list[GenerationEvent]:
    async with Registry([ScriptedHarness({"o/a": script})]) as registry:
        await registry.load(SPEC)
        async with registry.run(request) as generation:
            return [event async for event in generation]


async def test_a_model_without_a_script_loads_and_says_hello() -> None:
    harness = ScriptedHarness()
    async with Registry([harness]) as registry:
        await registry.load(SPEC)
        async with registry.chat(REQUEST) as generation:
            text = "".join([event.text async for event in generation if isinstance(event, TextDelta)])
    assert text == "Hello, world!"
    assert harness.requests == [REQUEST]
    assert harness.log == ["open o/a", "loaded o/a", "chat o/a", "end o/a", "close o/a"]


async def test_a_reply_is_one_start_the_script_and_one_finish() -> None:
    started, *deltas, finished = await reply_of(ScriptedModel(reply=[ReasoningDelta("hm"), "yes"], prompt_tokens=3))
    assert started == Started(prompt_tokens=3)
    assert deltas == [ReasoningDelta("hm"), TextDelta("yes")]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.completion_tokens) == (FinishReason.STOP, 2)


async def test_a_script_may_say_how_the_reply_ends() -> None:
    end = Finished(reasons=(FinishReason.LENGTH,), usage=Usage(prompt_tokens=1, completion_tokens=9))
    assert (await reply_of(ScriptedModel(reply=["yes", end])))[1:] == [TextDelta("yes"), end]


async def test_every_choice_follows_the_script_item_by_item() -> None:
    _, *deltas, finished = await reply_of(
        ScriptedModel(reply=[ReasoningDelta("hm"), "yes"]), replace(REQUEST, choices=2)
    )
    assert deltas == [ReasoningDelta("hm", 0), ReasoningDelta("hm", 1), TextDelta("yes", 0), TextDelta("yes", 1)]
    assert isinstance(finished, Finished)
    assert (finished.reasons, finished.usage.completion_tokens) == ((FinishReason.STOP,) * 2, 4)


async def test_choices_take_a_seat_each() -> None:
    with pytest.raises(InvalidRequest) as raised:
        await reply_of(ScriptedModel(max_in_flight=2), replace(REQUEST, choices=3))
    assert raised.value.param == "n"


@pytest.mark.parametrize(("asked", "top"), [(0, ()), (1, (Likely(b"yes", 0.0),)), (5, (Likely(b"yes", 0.0),))])
async def test_a_text_of_the_script_is_a_token_that_was_certain(asked: int, top: tuple[Likely, ...]) -> None:
    events = await reply_of(ScriptedModel(reply=["yes"]), replace(REQUEST, top_logprobs=asked))
    assert events[1] == TextDelta("yes", logprobs=(TokenLogprob(b"yes", 0.0, top),))


@pytest.mark.parametrize(
    ("task", "answer", "tokens"),
    [
        (Tokenize(model_id="o/a", prompt="hé"), Tokenized(tokens=(104, 195, 169), context=1), 3),
        (
            Tokenize(model_id="o/a", prompt="hi", wants_text=True, wants_pieces=True),
            Tokenized(tokens=(104, 105), context=1, text="hi", pieces=(b"h", b"i")),
            2,
        ),
        (
            Tokenize(model_id="o/a", prompt=REQUEST, wants_text=True),
            Tokenized(tokens=tuple(b"user: Hi\n"), context=1, text="user: Hi\n"),
            9,
        ),
        (Detokenize(model_id="o/a", tokens=(104, 195, 169)), Detokenized("hé"), 3),
    ],
)
async def test_each_byte_of_a_text_is_a_token(task: Task, answer: Tokenized | Detokenized, tokens: int) -> None:
    usage = Usage(prompt_tokens=tokens, completion_tokens=0)
    ends = Started(prompt_tokens=tokens), Finished(reasons=(FinishReason.STOP,), usage=usage)
    assert await reply_of(ScriptedModel(n_ctx=1), task) == [ends[0], answer, ends[1]]


async def test_every_input_gets_the_vector_of_the_script_in_the_dimensions_that_are_wanted() -> None:
    script = ScriptedModel(capabilities=("embeddings",), vector=(0.6, 0.0, 0.8))
    _, *vectors, finished = await reply_of(script, Embed(model_id="o/a", inputs=("one", (1, 2))))
    assert vectors == [Embedding(0, (0.6, 0.0, 0.8)), Embedding(1, (0.6, 0.0, 0.8))]
    assert isinstance(finished, Finished)
    assert await reply_of(script, Embed(model_id="o/a", inputs=("one",), dimensions=1)) == [
        Started(prompt_tokens=7),
        Embedding(0, (1.0,)),
        Finished(reasons=(FinishReason.STOP,), usage=Usage(prompt_tokens=7, completion_tokens=1)),
    ]
    with pytest.raises(InvalidRequest, match="dimensions"):
        await reply_of(script, Embed(model_id="o/a", inputs=("one",), dimensions=4))


async def test_documents_get_the_scores_of_the_script_in_turn() -> None:
    script = ScriptedModel(capabilities=("rerank",), scores=(0.25, 0.75))
    task = Rerank(model_id="o/a", query="which?", documents=("one", "two", "three"))
    _, *scores, _ = await reply_of(script, task)
    assert scores == [Relevance(0, 0.25), Relevance(1, 0.75), Relevance(2, 0.25)]


async def test_every_prompt_follows_the_script_and_may_be_echoed() -> None:
    task = Complete(model_id="o/a", prompt="p", more_prompts=((104, 105),), choices=2, echo=True)
    _, *said, finished = await reply_of(ScriptedModel(reply=["yes"], max_in_flight=2), task)
    echoes = [TextDelta("p", 0), TextDelta("p", 1), TextDelta("hi", 2), TextDelta("hi", 3)]
    assert said == [*echoes, *(TextDelta("yes", choice) for choice in range(4))]
    assert isinstance(finished, Finished)
    assert finished.reasons == (FinishReason.STOP,) * 4


async def test_a_scripted_error_ends_the_reply_in_its_place() -> None:
    seen: list[GenerationEvent] = []
    async with Registry([ScriptedHarness({"o/a": ScriptedModel(reply=["a", EngineFailed("boom"), "b"])})]) as registry:
        await registry.load(SPEC)
        async with registry.chat(REQUEST) as generation:
            with pytest.raises(EngineFailed, match="boom"):
                seen.extend([event async for event in generation])
            assert [event async for event in generation] == []


async def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PromptTooLong):
        await reply_of(ScriptedModel(prompt_tokens=8, n_ctx=8))


async def test_a_load_reports_its_stages() -> None:
    reported: list[LoadProgress] = []
    stages = [LoadProgress(stage=LoadStage.DOWNLOADING, bytes=1, total_bytes=2), LoadProgress(stage=LoadStage.WARMING)]
    harness = ScriptedHarness({"o/a": ScriptedModel(stages=stages)})
    async with harness.open(SPEC, model_id="o/a", report=reported.append):
        assert reported == stages


@pytest.mark.parametrize("waits_for", ["may_prepare", "may_speak"])
async def test_a_reply_that_waits_for_its_script_ends_when_the_model_goes(waits_for: str) -> None:
    script = ScriptedModel(death="killed by SIGKILL")
    setattr(script, waits_for, anyio.Event())
    errors: list[NeuronError] = []

    async def chat(registry: Registry) -> None:
        try:
            async with registry.chat(REQUEST) as generation:
                async for _ in generation:
                    pass
        except EngineDead as error:
            errors.append(error)

    async with Registry([ScriptedHarness({"o/a": script})]) as registry, anyio.create_task_group() as tasks:
        await registry.load(SPEC)
        tasks.start_soon(chat, registry)
        await let_others_run()
        script.dies.set()
    assert [error.message for error in errors] == ["the engine of model 'o/a' is gone: killed by SIGKILL"]


async def test_what_is_known_of_an_unloaded_model_is_what_its_script_says() -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(capabilities=("text", "vision"))})
    assert await harness.known_capabilities("helexa:o/a") == ("text", "vision")
    assert await harness.known_capabilities("o/b") is None


async def test_a_crash_ends_replies_shows_recovering_and_refuses_requests_until_it_is_over() -> None:
    script = ScriptedModel(may_speak=anyio.Event(), death="killed by SIGSEGV")
    harness = ScriptedHarness({"o/a": script})
    async with Registry([harness]) as registry:
        await registry.load(SPEC)
        async with registry.chat(REQUEST) as generation:
            events = aiter(generation)
            await anext(events)
            harness.crash("o/a")
            assert [info.status for info in registry.list_models()] == [ModelStatus.RECOVERING]
            with pytest.raises(Overloaded) as refused:
                await registry.chat(REQUEST).__aenter__()
            assert (refused.value.reason, refused.value.retry_after_s) == (OverloadReason.ENGINE_LOST, 2)
            harness.recover("o/a")
            with pytest.raises(EngineDead, match="killed by SIGSEGV"):  # the new engine does not know it
                await anext(events)
        script.may_speak = None
        assert [info.status for info in registry.list_models()] == [ModelStatus.LOADED]
        async with registry.chat(REQUEST) as generation:
            assert isinstance([event async for event in generation][-1], Finished)
    assert harness.log[2:] == ["chat o/a", "crash o/a", "recover o/a", "end o/a", "chat o/a", "end o/a", "close o/a"]


async def test_a_reply_that_waits_for_its_script_ends_with_a_crash() -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(may_prepare=anyio.Event())})
    errors: list[NeuronError] = []

    async def chat(registry: Registry) -> None:
        try:
            await registry.chat(REQUEST).__aenter__()
        except EngineDead as error:
            errors.append(error)

    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        await registry.load(SPEC)
        tasks.start_soon(chat, registry)
        await let_others_run()
        harness.crash("o/a")
        await let_others_run()
        assert len(errors) == 1


async def test_a_request_that_gets_its_seat_from_a_crash_is_refused_and_frees_it() -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(max_in_flight=1)})
    errors: list[NeuronError] = []

    async def chat(registry: Registry) -> None:
        try:
            await registry.chat(REQUEST).__aenter__()
        except Overloaded as error:
            errors.append(error)

    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        await registry.load(SPEC)
        async with registry.chat(REQUEST):
            tasks.start_soon(chat, registry)
            await let_others_run()
            harness.crash("o/a")
        await let_others_run()
        assert [error.fields["model_id"] for error in errors] == ["o/a"]
        (load,) = registry.loads()
        assert (load.in_flight, load.queue_depth) == (0, 0)


async def test_leaving_waits_for_the_script() -> None:
    may_unload = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(may_unload=may_unload)})
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        await registry.load(SPEC)
        tasks.start_soon(registry.unload, "o/a")
        await let_others_run()
        assert "close o/a" not in harness.log
        may_unload.set()
        await let_others_run()
        assert harness.log[-1] == "close o/a"


async def test_only_a_resident_model_can_crash_or_recover() -> None:
    harness = ScriptedHarness()
    with pytest.raises(KeyError):
        harness.crash("o/a")
    with pytest.raises(KeyError):
        harness.recover("o/a")
    assert harness.log == []
