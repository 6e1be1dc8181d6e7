"""How a model leaves: drained, let go, proved gone, and never for longer than it may take."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest
from trio.testing import MockClock

from neuron_lib import (
    Generation,
    LoadFailed,
    ModelNotLoaded,
    ModelSpec,
    Registry,
    SourceUnavailable,
    UnloadFailed,
)
from neuron_lib.errors import LoadCancelled
from neuron_lib.harness import LoadedModel, ProgressReporter
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import Caller, reply_text, request, spec
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def silent_reader(registry: Registry) -> AsyncIterator[Generation]:
    """A client that holds a reply and reads nothing, so that only others can end the wait for it."""
    async with registry.chat(request()) as generation:
        yield generation


class StubbornHarness(ScriptedHarness):
    """Nothing stops it when it lets a model go, or gives a load up, before `may_end`."""

    def __init__(self, scripts: dict[str, ScriptedModel] | None = None) -> None:
        super().__init__(scripts)
        self.may_end = anyio.Event()

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:  # type: ignore[override]  # as a generator, before its decorator
        try:
            async with super().open(spec, model_id=model_id, report=report) as model:
                yield model
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_end.wait()


# ------------------------------------------------------------------------------------------------------ the draining


async def test_a_model_whose_harness_fails_under_it_is_not_listed_while_it_is_let_go() -> None:
    fails, may_end = anyio.Event(), anyio.Event()

    class FailingHarness(ScriptedHarness):
        @asynccontextmanager
        async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:  # type: ignore[override]  # as a generator, before its decorator
            async def fail() -> None:
                await fails.wait()
                raise ZeroDivisionError("oops")

            async with super().open(spec, model_id=model_id, report=report) as model, anyio.create_task_group() as own:
                own.start_soon(fail)
                try:
                    yield model
                finally:
                    with anyio.CancelScope(shield=True):
                        await may_end.wait()

    async with Registry([FailingHarness()]) as registry:
        await registry.load(spec())
        fails.set()
        await let_others_run()
        assert registry.list_models() == ()
        assert [leaving.model_id for leaving in registry.unloading()] == ["o/a"]
        with pytest.raises(ModelNotLoaded):
            await reply_text(registry)
        may_end.set()
        await let_others_run()
        (lost,) = registry.lost()
        assert lost.error.endswith("ZeroDivisionError: oops")


# --------------------------------------------------------------------------------------------------- cancelled loads


async def test_a_load_that_ends_in_the_moment_it_is_cancelled_counts_as_cancelled() -> None:
    may_load = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(may_load=may_load)})
    async with Registry([harness]) as registry:
        caller = Caller(registry)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.load)
            await let_others_run()
            may_load.set()
            await registry.unload("o/a")
        assert (caller.loaded, [type(error) for error in caller.errors]) == ([], [LoadCancelled])
        assert harness.log.count("open o/a") == harness.log.count("close o/a") == 1


async def test_whoever_waits_for_a_cancelled_load_is_told_before_the_harness_has_given_it_up() -> None:
    harness = StubbornHarness({"o/a": ScriptedModel(may_load=anyio.Event())})
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        loader, unloader = Caller(registry), Caller(registry)
        tasks.start_soon(loader.load)
        await let_others_run()
        tasks.start_soon(unloader.unload)
        await let_others_run()
        assert [type(error) for error in loader.errors] == [LoadCancelled]
        assert not unloader.done.is_set()
        assert [leaving.model_id for leaving in registry.unloading()] == ["o/a"]
        harness.may_end.set()


class UncleanHarness(ScriptedHarness):
    """Fails with `error` when a load is given up."""

    def __init__(self, error: Exception) -> None:
        super().__init__({"o/a": ScriptedModel(may_load=anyio.Event())})
        self.error = error

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:  # type: ignore[override]  # as a generator, before its decorator
        try:
            async with super().open(spec, model_id=model_id, report=report) as model:
                yield model
        except anyio.get_cancelled_exc_class():
            raise self.error from None


async def unload_the_load_of(harness: ScriptedHarness) -> None:
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(registry).load)
        await let_others_run()
        await registry.unload("o/a")


@pytest.mark.parametrize(
    "error", [UnloadFailed("process 7 cannot be killed", model_id="o/a"), ZeroDivisionError("oops")]
)
async def test_a_cancelled_load_that_leaves_something_behind_is_no_success_and_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.RaisesGroup(UnloadFailed):
        await unload_the_load_of(UncleanHarness(error))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("error", [LoadFailed("too big"), SourceUnavailable("the hub is silent", model_id="o/a")])
async def test_a_load_that_fails_by_itself_while_it_is_cancelled_is_unloaded(error: Exception) -> None:
    await unload_the_load_of(UncleanHarness(error))


# ------------------------------------------------------------------------------------------- who is told of an unload


class News:
    """Is told of unloads, and remembers what the harness had done by then."""

    def __init__(self, harness: ScriptedHarness, then: Callable[[], Awaitable[None]] | None = None) -> None:
        self.seen: list[str] = []
        self._harness = harness
        self._then = then

    async def __call__(self) -> None:
        self.seen.append(self._harness.log[-1])
        if self._then is not None:
            await self._then()


async def test_the_news_of_an_unload_comes_after_the_memory_is_back_and_before_the_answer() -> None:
    harness, may_answer = ScriptedHarness(), anyio.Event()
    news = News(harness, may_answer.wait)
    async with Registry([harness], on_unloaded=news) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        unloader = Caller(registry)
        tasks.start_soon(unloader.unload)
        await let_others_run()
        assert (news.seen, unloader.done.is_set()) == (["close o/a"], False)
        may_answer.set()
        await let_others_run()
        assert unloader.done.is_set()


async def test_a_failure_of_those_who_hear_the_news_is_logged_and_the_unload_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    harness = ScriptedHarness()
    async with Registry([harness], on_unloaded=News(harness, fail)) as registry:
        await registry.load(spec())
        await registry.unload("o/a")
        assert registry.unloading() == ()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_failed_load_and_a_shutdown_are_no_news() -> None:
    harness = ScriptedHarness({"o/bad": ScriptedModel(load_error=LoadFailed("too big"))})
    news = News(harness)
    async with Registry([harness], on_unloaded=news) as registry:
        with suppress(LoadFailed):
            await registry.load(spec("o/bad"))
        await registry.load(spec())
    assert news.seen == []


# ------------------------------------------------------------------------------------ a model that cannot say how it is


def cannot_say(_model: object) -> None:
    raise ZeroDivisionError


async def test_a_model_that_cannot_say_how_it_is_can_be_unloaded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = ScriptedHarness()
    async with Registry([harness]) as registry:
        await registry.load(spec())
        with monkeypatch.context() as patch:
            patch.setattr("neuron_lib.testing.scripted._LoadedScript.info", cannot_say)
            await registry.unload("o/a")
        assert harness.log[-1] == "close o/a"
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_a_model_that_cannot_say_how_it_is_leaves_with_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ScriptedHarness()
    registry = Registry([harness])

    async def live() -> None:
        async with registry:
            await registry.load(spec())
            monkeypatch.setattr("neuron_lib.testing.scripted._LoadedScript.info", cannot_say)

    with pytest.raises(ZeroDivisionError):
        await live()
    assert harness.log[-1] == "close o/a"


# ------------------------------------------------------------------------------------------------------ its patience


class TestPatience:
    """In virtual time, which one of the event loops has."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": MockClock(autojump_threshold=0)}

    @asynccontextmanager
    async def registry_of(
        self,
        harness: ScriptedHarness,
        *,
        drain_timeout_s: float = 60.0,
        on_unloaded: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncIterator[Registry]:
        async with Registry(
            [harness],
            drain_timeout_s=drain_timeout_s,
            unload_timeout_s=20.0,
            on_unloaded=on_unloaded,
            clock=anyio.current_time,
        ) as registry:
            await registry.load(spec())
            try:
                with anyio.fail_after(7200):
                    yield registry
            finally:  # whatever went wrong, the registry can be left
                if isinstance(harness, StubbornHarness):
                    harness.may_end.set()
                for script in harness.scripts.values():
                    if script.may_unload is not None:
                        script.may_unload.set()

    async def test_an_unload_that_takes_too_long_says_so_with_numbers_to_all_who_wait(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.registry_of(StubbornHarness()) as registry, silent_reader(registry):
            started_s = anyio.current_time()
            first, second, loader = Caller(registry), Caller(registry), Caller(registry)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first.unload)
                await anyio.sleep(30)
                tasks.start_soon(second.unload)
                tasks.start_soon(loader.load)
            assert anyio.current_time() - started_s == pytest.approx(60 + 20, abs=1.5)
            failures = [error for caller in (first, second, loader) for error in caller.errors]
            assert len(failures) == 3
            assert len({id(failure) for failure in failures}) == 1
            (failure, *_) = failures
            assert isinstance(failure, UnloadFailed)
            assert "'o/a' is not gone after 8" in failure.message
            assert "(limit 20 s)" in failure.message
            assert failure.fields["closing_s"] == pytest.approx(20, abs=1.5)
            (leaving,) = registry.unloading()
            assert (leaving.model_id, leaving.is_overdue) == ("o/a", True)
            await anyio.sleep(5)
            with pytest.raises(UnloadFailed):
                await registry.unload("o/a")
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [(vars(error)["model_id"], vars(error)["leaving_s"]) for error in errors] == [
            ("o/a", failure.fields["leaving_s"])
        ]

    async def test_an_unload_that_takes_its_time_is_left_to_its_end_and_so_are_those_who_hear_of_it(self) -> None:
        may_unload = anyio.Event()
        harness = ScriptedHarness({"o/a": ScriptedModel(may_unload=may_unload)})
        async with self.registry_of(harness, on_unloaded=partial(anyio.sleep, 4)) as registry:
            async with anyio.create_task_group() as tasks:
                unloader = Caller(registry)
                tasks.start_soon(unloader.unload)
                await anyio.sleep(18)
                may_unload.set()
            assert unloader.errors == []

    async def test_what_a_harness_does_for_too_long_is_cancelled_and_the_id_is_free_again(self) -> None:
        harness = ScriptedHarness({"o/a": ScriptedModel(may_unload=anyio.Event())})
        async with self.registry_of(harness) as registry:
            with pytest.raises(UnloadFailed):
                await registry.unload("o/a")
            await let_others_run()
            assert registry.unloading() == ()
            harness.scripts["o/a"] = ScriptedModel()
            await registry.load(spec())
            assert await reply_text(registry) == "Hello, world!"

    async def test_a_harness_that_does_not_give_a_load_up_keeps_nobody_waiting(self) -> None:
        harness = StubbornHarness({"o/b": ScriptedModel(may_load=anyio.Event())})
        async with self.registry_of(harness) as registry, anyio.create_task_group() as tasks:
            tasks.start_soon(Caller(registry).load, "o/b")
            await let_others_run()
            with pytest.raises(UnloadFailed, match="'o/b' is not gone after 2"):
                await registry.unload("o/b")

    async def test_a_crash_while_a_model_drains_ends_the_drain(self) -> None:
        harness = ScriptedHarness()
        async with (
            self.registry_of(harness, drain_timeout_s=3600) as registry,
            anyio.create_task_group() as tasks,
            silent_reader(registry),
        ):
            unloader = Caller(registry)
            tasks.start_soon(unloader.unload)
            await anyio.sleep(10)
            assert not unloader.done.is_set()
            harness.crash("o/a")
            await anyio.sleep(2)
            assert unloader.done.is_set()

    async def test_whoever_hears_the_news_and_does_not_come_to_an_end_holds_nobody_up(self) -> None:
        started_s = anyio.current_time()
        async with self.registry_of(ScriptedHarness(), on_unloaded=anyio.sleep_forever) as registry:
            await registry.unload("o/a")
            assert anyio.current_time() - started_s == pytest.approx(5)

    async def test_a_model_that_cannot_be_supervised_does_not_stop_the_supervision(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with (
            self.registry_of(ScriptedHarness()) as registry,
            anyio.create_task_group() as tasks,
            silent_reader(registry),
        ):
            tasks.start_soon(registry.unload, "o/a")
            await let_others_run()
            monkeypatch.setattr("neuron_lib.testing.scripted._LoadedScript.info", cannot_say)
            await anyio.sleep(5)
            assert registry.tick_age_s() <= 1
        assert {record.levelno for record in caplog.records} == {logging.ERROR}
