"""The rules that every backend has to keep, as checks that a backend runs against itself.

`CHECKS` has the checks: async functions that take a `Subject`, and raise an `AssertionError` that names the rule. They
need no test framework, and run on asyncio and on trio. With pytest and its plugin of anyio:

    @pytest.mark.anyio
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_the_contract(check: Check) -> None:
        await check(Subject(make=MyHarness, spec=ModelSpec(model_id="org/small", harness="mine")))

Each check makes a harness of its own and loads the model once or twice. So take a model that loads quickly, or give the
subject a `resident` model.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib.errors import EngineDead, LoadFailed, NeuronError, RequestRejected, ShuttingDown, SourceUnavailable
from neuron_lib.harness import Harness, LoadedModel, Reply
from neuron_lib.registry.registry import Registry
from neuron_lib.types import (
    Chat,
    Embed,
    Finished,
    GenerationEvent,
    LoadProgress,
    LoadStage,
    ModelSpec,
    ModelStatus,
    Rerank,
    Started,
    Task,
    public_id,
)

__all__ = (
    "CHECKS",
    "Check",
    "Subject",
    "a_load_can_be_cancelled_and_repeated",
    "a_load_that_cannot_succeed_says_so",
    "a_loaded_model_describes_itself",
    "a_registry_can_host_it",
    "a_reply_of_a_model_that_is_gone_raises_engine_dead",
    "a_reply_starts_and_finishes_once",
    "a_reply_that_is_cancelled_frees_its_seat",
    "a_reply_that_is_left_frees_its_seat",
    "a_reply_that_is_not_entered_is_nothing",
    "a_task_that_the_model_cannot_do_is_refused",
    "capabilities_are_known_or_not_said",
    "closed_admission_refuses_new_requests",
    "progress_never_goes_back",
    "several_replies_are_made_at_once_or_in_turn",
    "the_harness_has_a_name",
)

_RANK: Final = {stage: rank for rank, stage in enumerate(LoadStage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked: a harness that `make` returns, and a model that `spec` loads.

    `task` is a request whose reply has several events; None asks for a short chat. `bad_spec` is one whose load must
    fail, None if there is none. `resident` is the model of `spec`, loaded already, for the checks that leave a model as
    it was; with None each of them loads one. `limit_s` bounds each load and each wait of a check, in seconds. `reports`
    is the progress that the loads have reported.
    """

    make: Callable[[], Harness]
    spec: ModelSpec
    task: Task | None = None
    bad_spec: ModelSpec | None = None
    resident: LoadedModel | None = None
    limit_s: float = 120.0
    reports: list[LoadProgress] = field(default_factory=list, init=False)

    @property
    def model_id(self) -> str:
        """The id under which the model is published."""
        return public_id(self.spec.model_id)

    def request(self) -> Task:
        """The task of the checks."""
        message = {"role": "user", "content": "Count to five."}
        return self.task or Chat(model_id=self.model_id, messages=(message,), max_tokens=16)


Check: TypeAlias = Callable[[Subject], Awaitable[None]]
"""One rule. Raises `AssertionError` if the backend breaks the rule, and `TimeoutError` if the backend hangs."""


@asynccontextmanager
async def _opened(subject: Subject, harness: Harness | None = None) -> AsyncIterator[LoadedModel]:
    harness = harness or subject.make()
    opening = harness.open(subject.spec, model_id=subject.model_id, report=subject.reports.append)
    async with opening as model:
        yield model


@asynccontextmanager
async def _resident(subject: Subject) -> AsyncIterator[LoadedModel]:
    """For checks that leave the model as it was."""
    if subject.resident is not None:
        yield subject.resident
        return
    async with _opened(subject) as model:
        yield model


async def _read(reply: Reply) -> list[GenerationEvent]:
    return [event async for event in reply]


async def the_harness_has_a_name(subject: Subject) -> None:
    """`name` is what the spec names, and is the same each time."""
    harness = subject.make()
    assert harness.name, "`name` is empty"
    assert harness.name == subject.make().name, "two harnesses of one kind have different names"


async def progress_never_goes_back(subject: Subject) -> None:
    """A load reports `LoadProgress` with stages in their order and fractions from 0 to 1."""
    subject.reports.clear()
    with anyio.fail_after(subject.limit_s):
        async with _opened(subject):
            ranks = [_RANK[each.stage] for each in subject.reports]
            assert ranks == sorted(ranks), f"stages went back: {[each.stage.value for each in subject.reports]}"
            fractions = [each.fraction for each in subject.reports if each.fraction is not None]
            assert all(0.0 <= each <= 1.0 for each in fractions), "a fraction is not within 0 and 1"


async def a_loaded_model_describes_itself(subject: Subject) -> None:
    """`info` and `load` answer without waiting, with the public id, the name of the harness, and no request."""
    harness = subject.make()
    with anyio.fail_after(subject.limit_s):
        async with _opened(subject, harness) as model:
            info, load = model.info(), model.load()
    assert info.id == subject.model_id, f"`info().id` is {info.id!r} and not the `model_id` of `open`"
    assert info.harness == harness.name, "`info().harness` is not the name of the harness"
    assert info.status is ModelStatus.LOADED, "a model that has just been loaded does not say `loaded`"
    assert load.id == subject.model_id, "`load().id` is not the `model_id` of `open`"
    assert (load.in_flight, load.queue_depth) == (0, 0), "a model without a request counts some"


async def a_reply_starts_and_finishes_once(subject: Subject) -> None:
    """The first event is `Started`, the last one `Finished`, and the end is the end for every further look."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model, model.run(subject.request()) as reply:
            events = await _read(reply)
            assert await _read(reply) == [], "there are events after the end"
            usage = reply.usage
    assert events, "a reply has no event"
    assert [isinstance(each, Started) for each in events].count(True) == 1, "there is not exactly one `Started`"
    assert isinstance(events[0], Started), "the first event is not `Started`"
    last = events[-1]
    assert isinstance(last, Finished), "the last event is not `Finished`"
    assert not any(isinstance(each, Finished) for each in events[:-1]), "there are events after `Finished`"
    assert len(events) > 2, "a reply has nothing between its beginning and its end"
    assert last.reasons, "`Finished` has no reason"
    assert usage == last.usage, "`usage` is not what `Finished` says"


async def a_reply_that_is_not_entered_is_nothing(subject: Subject) -> None:
    """`run` alone starts nothing and refuses nothing."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model:
            model.run(subject.request())
            await checkpoint()
            assert model.load().in_flight == 0, "a reply that was not entered has a seat"
            assert model.load().queue_depth == 0, "a reply that was not entered waits"


async def a_reply_that_is_left_frees_its_seat(subject: Subject) -> None:
    """Leaving the block of a reply half-way, or by an exception, ends the request. The next one is served."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model:
            async with model.run(subject.request()) as reply:
                await anext(reply.__aiter__())
            try:
                async with model.run(subject.request()) as reply:
                    _stumble()
            except ZeroDivisionError:
                pass
            else:
                raise AssertionError("leaving a reply swallows the exception of the block")
            await _until_idle(model)
            async with model.run(subject.request()) as reply:
                assert isinstance((await _read(reply))[-1], Finished), "the reply after that does not finish"


def _stumble() -> None:
    raise ZeroDivisionError


async def a_reply_that_is_cancelled_frees_its_seat(subject: Subject) -> None:
    """The task of a reply may be cancelled at any moment."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model:
            for turns in (0, 1, 5, 25):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_reply_to, model, subject.request())
                        for _ in range(turns):
                            await checkpoint()
                        scope.cancel()
            await _until_idle(model)


async def _reply_to(model: LoadedModel, task: Task) -> None:
    async with model.run(task) as reply:
        await _read(reply)


async def _until_idle(model: LoadedModel) -> None:
    while model.load().in_flight or model.load().queue_depth:  # noqa: ASYNC110 - a backend tells nobody of this
        await anyio.sleep(0.01)


async def several_replies_are_made_at_once_or_in_turn(subject: Subject) -> None:
    """Requests that come together are all answered."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(_reply_to, model, subject.request())
            await _until_idle(model)


async def a_task_that_the_model_cannot_do_is_refused(subject: Subject) -> None:
    """A model without a capability refuses its task with `RequestRejected` on entering, and goes on."""
    with anyio.fail_after(subject.limit_s):
        async with _resident(subject) as model:
            able = model.info().capabilities
            tasks: list[Task] = []
            if "embeddings" not in able:
                tasks.append(Embed(model_id=subject.model_id, inputs=("hi",)))
            if "rerank" not in able:
                tasks.append(Rerank(model_id=subject.model_id, query="hi", documents=("hi",)))
            for task in tasks:
                reply = model.run(task)  # which refuses nothing
                try:
                    async with reply:
                        pass
                except RequestRejected:
                    continue
                raise AssertionError(f"a model with {able} takes a task of the type {type(task).__name__}")
            await _until_idle(model)


async def closed_admission_refuses_new_requests(subject: Subject) -> None:
    """After `close_admission` new requests are refused with the given refusal, and a running reply goes on."""
    with anyio.fail_after(subject.limit_s):
        async with _opened(subject) as model, model.run(subject.request()) as running:
            model.close_admission(ShuttingDown)
            try:
                async with model.run(subject.request()):
                    pass
            except ShuttingDown:
                pass
            else:
                raise AssertionError("a request was admitted after `close_admission`")
            assert isinstance((await _read(running))[-1], Finished), "the running reply does not finish"


async def a_reply_of_a_model_that_is_gone_raises_engine_dead(subject: Subject) -> None:
    """A reply that outlives the block of `open` raises `EngineDead` when it is read, and can be left."""
    with anyio.fail_after(subject.limit_s):
        async with _opened(subject) as model:
            reply = await model.run(subject.request()).__aenter__()
        try:
            await _read(reply)
        except EngineDead:
            pass
        else:
            raise AssertionError("a reply of a model that is gone does not raise `EngineDead`")
        finally:
            await reply.__aexit__(None, None, None)


async def a_load_can_be_cancelled_and_repeated(subject: Subject) -> None:
    """A load that is cancelled holds nothing. The same harness loads the model afterwards, and again after that."""
    harness = subject.make()
    with anyio.fail_after(subject.limit_s):
        for turns in (0, 1, 5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_open_for_ever, subject, harness)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        for _ in range(2):
            async with _opened(subject, harness) as model:
                assert model.info().status is ModelStatus.LOADED, "the model does not serve after a cancelled load"


async def _open_for_ever(subject: Subject, harness: Harness) -> None:
    async with _opened(subject, harness):
        await anyio.sleep_forever()


async def a_load_that_cannot_succeed_says_so(subject: Subject) -> None:
    """A bad spec raises `LoadFailed` or `SourceUnavailable` on entering, and no other error."""
    if subject.bad_spec is None:
        return
    model_id = public_id(subject.bad_spec.model_id)
    with anyio.fail_after(subject.limit_s):
        try:
            async with subject.make().open(subject.bad_spec, model_id=model_id, report=lambda _progress: None):
                pass
        except (LoadFailed, SourceUnavailable):
            return
    raise AssertionError("a load that cannot succeed raises nothing")


async def capabilities_are_known_or_not_said(subject: Subject) -> None:
    """`known_capabilities` answers for every id with a tuple or None, and raises for none."""
    harness = subject.make()
    with anyio.fail_after(subject.limit_s):
        for model_id in (subject.model_id, "nobody/nothing", "", "x" * 10_000):
            found = await harness.known_capabilities(model_id)
            assert found is None or isinstance(found, tuple), "`known_capabilities` is neither a tuple nor None"


async def a_registry_can_host_it(subject: Subject) -> None:
    """Under a registry the model loads, answers, and is unloaded, and so is a model that still answers at the end."""
    with anyio.fail_after(2 * subject.limit_s):
        async with Registry([subject.make()], drain_timeout_s=subject.limit_s) as registry:
            await registry.load(subject.spec)
            async with registry.run(subject.request()) as reply:
                assert isinstance((await _read(reply))[-1], Finished), "the reply does not finish"
            await registry.unload(subject.model_id)
            assert registry.list_models() == (), "the model is listed after its unload"
            await registry.load(subject.spec)
            reply = registry.run(subject.request())
            await reply.__aenter__()
        try:
            await _read(reply)
        except NeuronError:
            pass
        finally:
            await reply.__aexit__(None, None, None)


CHECKS: Final[tuple[Check, ...]] = (
    the_harness_has_a_name,
    progress_never_goes_back,
    a_loaded_model_describes_itself,
    a_reply_starts_and_finishes_once,
    a_reply_that_is_not_entered_is_nothing,
    a_reply_that_is_left_frees_its_seat,
    a_reply_that_is_cancelled_frees_its_seat,
    several_replies_are_made_at_once_or_in_turn,
    a_task_that_the_model_cannot_do_is_refused,
    closed_admission_refuses_new_requests,
    a_reply_of_a_model_that_is_gone_raises_engine_dead,
    a_load_can_be_cancelled_and_repeated,
    a_load_that_cannot_succeed_says_so,
    capabilities_are_known_or_not_said,
    a_registry_can_host_it,
)
"""Every rule that can be checked from outside."""
