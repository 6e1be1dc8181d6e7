"""Types that the public names promise. mypy reads this file; nothing runs it."""

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import assert_type

from neuron_lib import (
    ActivationSnapshot,
    ActivationTracker,
    ChatRequest,
    Complete,
    Detokenize,
    Detokenized,
    Embed,
    Embedding,
    EndedReply,
    Finished,
    Generation,
    GenerationEvent,
    Harness,
    LoadedModel,
    ModelInfo,
    ModelLoading,
    ModelSpec,
    NeuronError,
    ReasoningDelta,
    Registry,
    Relevance,
    Reply,
    ReplyOutcome,
    Rerank,
    Started,
    TextDelta,
    Tokenize,
    Tokenized,
    ToolCall,
    Usage,
    load_default_models,
)
from neuron_lib.admission import AdmissionController, AdmissionRules, AdmissionSnapshot, Place
from neuron_lib.backend import Backend
from neuron_lib.blocking import BlockingRegistry, BlockingReply
from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.errors import RequestRejected, cause_chain
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import FailedLoad, LoadingModel, ModelLoad, UnloadingModel, public_id

scripted: Harness = ScriptedHarness()
llamacpp: Harness = LlamaCppHarness()
with_own_files: Harness = LlamaCppHarness(
    LlamaCppConfig(hf_cache="/srv/hub", local_roots=[Path("/srv"), "/opt"]),
    models=[ModelEntry(id="a/b", path="/srv/b.gguf"), ModelEntry(id="a/c", path=Path("/srv/c.gguf"))],
)
assert_type(LLAMACPP, Backend[LlamaCppConfig])


def count_reply(ended: EndedReply) -> None:
    assert_type(ended.outcome, ReplyOutcome)
    assert_type(ended.first_event_s, float | None)
    assert_type(ended.usage, Usage)


async def a_registry(spec: ModelSpec, request: ChatRequest) -> None:
    async with Registry([scripted, llamacpp], drain_timeout_s=1.0, on_reply=count_reply) as registry:
        assert_type(registry, Registry)
        assert_type(registry.register(scripted, aliases=["other"]), None)
        assert_type(registry.harness_names, tuple[str, ...])
        assert_type(registry.follow(ActivationTracker([spec])), None)
        assert_type(registry.loaded_unix_s(), Mapping[str, int])
        assert_type(ModelLoading("o/a", "soon", stage="pending", retry_after_s=5).retry_after_s, int | None)
        assert_type(await registry.load(spec), ModelInfo)
        assert_type(registry.list_models(), tuple[ModelInfo, ...])
        assert_type(registry.loads(), tuple[ModelLoad, ...])
        assert_type(registry.loading(), tuple[LoadingModel, ...])
        assert_type(registry.unloading(), tuple[UnloadingModel, ...])
        assert_type(registry.lost(), tuple[FailedLoad, ...])
        assert_type(registry.endpoint("o/a"), str)
        assert_type(await registry.capabilities("o/a"), tuple[str, ...] | None)
        assert_type(registry.chat(request), Reply)
        for task in (
            request,
            Complete(model_id="o/a", prompt="once"),
            Embed(model_id="o/a", inputs=("one", (1, 2)), dimensions=8),
            Rerank(model_id="o/a", query="q", documents=("d",)),
        ):
            assert_type(registry.run(task), Reply)
        for reading in (Tokenize(model_id="o/a", prompt=request), Detokenize(model_id="o/a", tokens=(1, 2))):
            assert_type(registry.run(reading), Reply)
        assert_type(await registry.unload("o/a"), None)
        assert_type(registry.close_admission(), None)
        assert_type(await registry.wait_idle(), None)


async def a_reply(reply: Reply) -> None:
    assert_type(reply, Generation)
    async with reply as entered:
        assert_type(entered, Reply)
        assert_type(aiter(entered), AsyncIterator[GenerationEvent])
        async for event in entered:
            assert_type(
                event,
                Started
                | TextDelta
                | ReasoningDelta
                | ToolCall
                | Embedding
                | Relevance
                | Tokenized
                | Detokenized
                | Finished,
            )


async def a_harness(harness: Harness, spec: ModelSpec) -> None:
    async with harness.open(spec, model_id="o/a", report=print) as model:
        assert_type(model, LoadedModel)
        assert_type(model.info(), ModelInfo)
        assert_type(model.load(), ModelLoad)
        assert_type(await model.wait_lost(), str)
    assert_type(await harness.known_capabilities("o/a"), tuple[str, ...] | None)


async def an_activation(registry: Registry, specs: list[ModelSpec]) -> None:
    tracker = ActivationTracker(specs)
    assert_type(await load_default_models(registry, specs, tracker), None)
    assert_type(await load_default_models(registry, specs, tracker, retry_delays_s=(1, 2.5)), None)
    assert_type(tracker.snapshot(), ActivationSnapshot)
    assert_type(await tracker.wait_ready(), None)
    async for snapshot in tracker.changes():
        assert_type(snapshot.in_progress, str | None)
        assert_type(snapshot.failed, tuple[FailedLoad, ...])


def an_admission(refusal: type[RequestRejected]) -> None:
    controller = AdmissionController(AdmissionRules(max_in_flight=1, max_queue_depth=1, max_wait_s=1))
    with controller.place(1, refuse=print) as place:
        assert_type(place, Place)
        assert_type(place.begin(), None)
    assert_type(controller.snapshot(), AdmissionSnapshot)
    controller.close(lambda: refusal("no"))


def errors_and_ids(error: NeuronError, rejected: RequestRejected) -> None:
    assert_type(error.code, str)
    assert_type(rejected.retry_after_s, int | None)
    assert_type(cause_chain(error), str)
    assert_type(public_id("helexa:o/a"), str)


def a_blocking_registry(spec: ModelSpec, request: ChatRequest) -> None:
    with BlockingRegistry(Registry([scripted]), backend="trio") as registry:
        assert_type(registry, BlockingRegistry)
        assert_type(registry.asynchronous, Registry)
        assert_type(registry.load(spec), ModelInfo)
        assert_type(registry.start_load(spec), Future[ModelInfo])
        assert_type(registry.load_default_models([spec]), ActivationSnapshot)
        assert_type(registry.call(registry.asynchronous.loaded_unix_s), Mapping[str, int])
        assert_type(registry.call(registry.asynchronous.load, spec), ModelInfo)
        assert_type(registry.submit(registry.asynchronous.endpoint, "o/a"), Future[str])
        assert_type(registry.chat(request), BlockingReply)
        with registry.run(request) as reply:
            assert_type(next(reply), GenerationEvent)
            assert_type(reply.usage, Usage)
        for loading in registry.loading_changes():
            assert_type(loading, tuple[LoadingModel, ...])
