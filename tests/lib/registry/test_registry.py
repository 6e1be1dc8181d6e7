import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from neuron_lib import (
    AlreadyLoaded,
    EngineDead,
    LoadFailed,
    ModelNotLoaded,
    ModelSpec,
    Registry,
    SourceUnavailable,
    Started,
)
from neuron_lib.errors import (
    EngineFailed,
    LoadCancelled,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    ShuttingDown,
    UnknownHarness,
)
from neuron_lib.harness import LoadedModel, ProgressReporter
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import FailedLoad
from tests.fakes.driven_harness import DrivenHarness
from tests.fakes.registry_callers import Caller, reply_text, request, spec
from tests.fakes.turns import let_others_run
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio


# ------------------------------------------------------------------------------------------------ loading, listing


async def test_a_registry_that_was_not_entered_says_so_when_it_should_load() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await Registry([ScriptedHarness()]).load(spec())


async def test_a_registry_that_was_not_entered_can_be_asked() -> None:
    registry = Registry()
    assert (registry.list_models(), registry.loads(), registry.loading(), registry.lost()) == ((), (), (), ())


async def test_an_unknown_harness_is_refused_with_the_known_names() -> None:
    async with Registry([ScriptedHarness(name="one"), ScriptedHarness(name="two")]) as registry:
        with pytest.raises(UnknownHarness, match=r"'three'; registered: one, two"):
            await registry.load(spec(harness="three"))


async def test_a_load_that_names_no_harness_gets_the_only_one() -> None:
    async with Registry() as registry:
        registry.register(ScriptedHarness(name="one"), aliases=("other",))
        await registry.load(spec(harness=None))
        assert registry.list_models()[0].harness == "one"


async def test_a_load_that_names_no_harness_is_refused_where_there_are_several_or_none() -> None:
    async with Registry([ScriptedHarness(name="one"), ScriptedHarness(name="two")]) as registry:
        with pytest.raises(UnknownHarness, match="this host has the harnesses one, two: name one of them"):
            await registry.load(spec(harness=None))
    async with Registry() as registry:
        with pytest.raises(UnknownHarness, match="this host has no harness"):
            await registry.load(spec(harness=None))


async def test_a_harness_is_found_under_its_aliases_and_listed_under_its_name() -> None:
    registry = Registry()
    registry.register(ScriptedHarness(name="llamacpp"), aliases=["candle"])
    async with registry:
        await registry.load(spec(harness="candle"))
        assert registry.harness_names == ("llamacpp",)
        assert registry.list_models()[0].harness == "llamacpp"


async def test_an_id_with_a_quant_is_listed_as_it_was_asked_for_and_found_in_other_words() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec("hub:o/a:Q4_K_M"))
        assert [info.id for info in registry.list_models()] == ["o/a:Q4_K_M"]
        for asked in ("o/a:Q4_K_M", "o/a:q4km", "hub:o/a:Q4_K_M", "hf.co/o/a:Q4_K_M", "o/a", "o/a:latest"):
            assert registry.endpoint(asked) == registry.endpoint_url
            assert await reply_text(registry, asked) == "Hello, world!"
        for asked in ("o/a:Q8_0", "o/b:Q4_K_M"):
            with pytest.raises(ModelNotLoaded):
                registry.endpoint(asked)
        await registry.unload("o/a:q4_k_m")
        assert registry.list_models() == ()


async def test_an_id_without_a_quant_means_the_only_model_there_is_of_it() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec("o/a:Q4_K_M"))
        await registry.load(spec("o/a:Q8_0"))
        assert [info.id for info in registry.list_models()] == ["o/a:Q4_K_M", "o/a:Q8_0"]
        with pytest.raises(ModelNotLoaded):
            registry.endpoint("o/a")
        await registry.load(spec("o/a"))
        await registry.unload("o/a")
        assert [info.id for info in registry.list_models()] == ["o/a:Q4_K_M", "o/a:Q8_0"]


@pytest.mark.parametrize(
    ("resident", "second"),
    [
        (spec("o/a:Q4_K_M"), spec("o/a:q4_k_m")),
        (spec("o/a:Q4_K_M"), spec("o/a", quant="q4km")),
        (spec("o/a", quant="Q4_K_M"), spec("hub:o/a:Q4_K_M")),
        (spec("o/a", quant="Q4_K_M"), spec("o/a", quant="Q8_0")),
    ],
)
async def test_a_model_in_other_words_is_not_loaded_twice(resident: ModelSpec, second: ModelSpec) -> None:
    async with Registry([ScriptedHarness()]) as registry:
        info = await registry.load(resident)
        with pytest.raises(AlreadyLoaded):
            await registry.load(second)
        assert registry.list_models() == (info,)


async def test_a_failing_load_fails_everybody_alike_and_never_says_already_loaded() -> None:
    may_load = anyio.Event()
    failure = LoadFailed("too big for this host")
    harness = ScriptedHarness({"o/a": ScriptedModel(may_load=may_load, load_error=failure)})
    async with Registry([harness]) as registry:
        callers = [Caller(registry) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for caller in callers:
                tasks.start_soon(caller.load)
            await let_others_run()
            may_load.set()
        assert [caller.errors for caller in callers] == [[failure]] * 3
        assert "already loaded" not in str(failure)
        assert registry.list_models() == ()
        assert registry.loading() == ()


async def test_after_a_failure_a_load_is_tried_anew() -> None:
    script = ScriptedModel(load_error=SourceUnavailable("the hub is silent", model_id="o/a"))
    async with Registry([ScriptedHarness({"o/a": script})]) as registry:
        with pytest.raises(SourceUnavailable, match="silent"):
            await registry.load(spec())
        script.load_error = None
        assert (await registry.load(spec())).id == "o/a"


async def test_a_bug_in_a_harness_fails_the_load_with_its_cause_and_leaves_other_models_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = ScriptedHarness({"o/bug": ScriptedModel(load_error=ZeroDivisionError("oops"))})
    async with Registry([harness]) as registry:
        await registry.load(spec())
        with pytest.raises(LoadFailed) as raised:
            await registry.load(spec("o/bug"))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert await reply_text(registry) == "Hello, world!"
    (record,) = caplog.records
    assert (record.levelno, vars(record)["model_id"]) == (logging.ERROR, "o/bug")
    assert record.exc_info is not None


async def test_different_ids_load_at_the_same_time() -> None:
    may_load = anyio.Event()
    harness = ScriptedHarness({name: ScriptedModel(may_load=may_load) for name in ("o/a", "o/b")})
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.load, spec("o/a"))
        tasks.start_soon(registry.load, spec("o/b"))
        await let_others_run()
        assert sorted(harness.log) == ["open o/a", "open o/b"]
        may_load.set()


async def test_more_loads_than_the_host_takes_are_refused_at_once_until_one_ends() -> None:
    harness = ScriptedHarness({name: ScriptedModel(may_load=anyio.Event()) for name in ("o/a", "o/b")})
    async with Registry([harness], max_loads=2) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec("o/resident"))
        loads = {name: Caller(registry) for name in ("o/a", "o/b")}
        for name, caller in loads.items():
            tasks.start_soon(caller.load, name)
        await let_others_run()
        with pytest.raises(Overloaded, match="2 loads are under way") as raised:
            await registry.load(spec("o/c"))
        assert (raised.value.reason, raised.value.retry_after_s) == (OverloadReason.TOO_MANY_LOADS, 30)
        assert "open o/c" not in harness.log
        with pytest.raises(AlreadyLoaded):
            await registry.load(spec("o/resident"))
        await registry.unload("o/a")
        assert (await registry.load(spec("o/c"))).id == "o/c"
        await registry.unload("o/b")


async def test_a_load_that_was_cancelled_counts_until_its_harness_has_given_up_what_it_held() -> None:
    harness = DrivenHarness()
    harness.may_close = anyio.Event()
    async with Registry([harness], max_loads=1) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(Caller(registry).load, harness="driven"))
        await let_others_run()
        tasks.start_soon(Caller(registry).unload)
        await let_others_run()
        harness.finish()
        early, late = Caller(registry), Caller(registry)
        tasks.start_soon(partial(early.load, "o/b", harness="driven"))
        await let_others_run()
        harness.may_close.set()
        await let_others_run()
        await late.load("o/b", harness="driven")
        assert ([type(error) for error in early.errors], late.loaded) == ([Overloaded], ["o/b"])


@pytest.mark.parametrize("leaver", [0, 1])
async def test_a_caller_that_goes_away_does_not_stop_the_load(leaver: int) -> None:
    may_load = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(may_load=may_load)})
    async with Registry([harness]) as registry:
        callers = [Caller(registry), Caller(registry)]
        scopes = [anyio.CancelScope(), anyio.CancelScope()]

        async def call(index: int) -> None:
            with scopes[index]:
                await callers[index].load()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 0)
            await let_others_run()
            tasks.start_soon(call, 1)
            await let_others_run()
            scopes[leaver].cancel()
            await let_others_run()
            may_load.set()
        assert harness.log == ["open o/a", "loaded o/a"]
        assert not callers[leaver].done.is_set()
        assert callers[1 - leaver].done.is_set()
        assert [info.id for info in registry.list_models()] == ["o/a"]


@pytest.mark.parametrize("spelling", ["o/a", "helexa:o/a", "huggingface:o/a"])
async def test_a_model_is_published_without_its_scheme_and_found_under_any_spelling(spelling: str) -> None:
    harness = ScriptedHarness()
    async with Registry([harness]) as registry:
        assert (await registry.load(spec("helexa:o/a"))).id == "o/a"
        assert registry.endpoint(spelling)
        assert await registry.capabilities(spelling) == ("text",)
        assert await reply_text(registry, spelling) == "Hello, world!"
        with pytest.raises(AlreadyLoaded):
            await registry.load(spec(spelling))
        await registry.unload(spelling)
        assert registry.list_models() == ()
    assert harness.log[0] == "open o/a"


async def test_what_an_unloaded_model_can_do_is_asked_of_the_harnesses_in_turn() -> None:
    ignorant = ScriptedHarness(name="ignorant")
    knowing = ScriptedHarness({"o/v": ScriptedModel(capabilities=("text", "vision"))}, name="knowing")
    async with Registry([ignorant, knowing]) as registry:
        assert await registry.capabilities("o/v") == ("text", "vision")
        assert await registry.capabilities("o/unknown") is None


# -------------------------------------------------------------------------------------------------------- chatting


async def test_a_generation_that_was_not_entered_says_so_when_it_is_read() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await anext(aiter(Registry().chat(request())))


async def test_a_refused_prompt_leaves_nothing_behind() -> None:
    script = ScriptedModel(prompt_tokens=2000, n_ctx=1024)
    async with Registry([ScriptedHarness({"o/a": script})], drain_timeout_s=math.inf) as registry:
        await registry.load(spec())
        with pytest.raises(PromptTooLong):
            await reply_text(registry)
        with anyio.fail_after(PATIENCE_S):
            await registry.unload("o/a")


async def test_an_error_in_a_reply_leaves_nothing_behind() -> None:
    script = ScriptedModel(reply=["a", EngineFailed("boom")])
    async with Registry([ScriptedHarness({"o/a": script})], drain_timeout_s=math.inf) as registry:
        await registry.load(spec())
        with pytest.raises(EngineFailed):
            await reply_text(registry)
        with anyio.fail_after(PATIENCE_S):
            await registry.unload("o/a")


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("waits_for", ["nothing", "may_prepare", "a seat", "may_speak"])
async def test_a_chat_that_is_cancelled_at_any_moment_leaves_nothing_behind(waits_for: str, turns: int) -> None:
    script = ScriptedModel(
        max_in_flight=1,
        may_prepare=anyio.Event() if waits_for == "may_prepare" else None,
        may_speak=anyio.Event() if waits_for in {"a seat", "may_speak"} else None,
    )
    async with Registry([ScriptedHarness({"o/a": script})], drain_timeout_s=math.inf) as registry:
        await registry.load(spec())
        victim, neighbour = Caller(registry), Caller(registry)
        victim_scope = anyio.CancelScope()

        async def call() -> None:
            with victim_scope:
                await victim.chat()

        async with anyio.create_task_group() as tasks:
            if waits_for == "a seat":
                tasks.start_soon(neighbour.chat)
                await let_others_run()
            tasks.start_soon(call)
            await let_others_run(turns)
            victim_scope.cancel()
            await let_others_run()
            (load,) = registry.loads()
            assert (load.in_flight, load.queue_depth) == (1 if waits_for == "a seat" else 0, 0)
            if script.may_speak is not None:
                script.may_speak.set()
        with anyio.fail_after(PATIENCE_S):
            await registry.unload("o/a")


async def test_waiting_for_idle_lasts_as_long_as_a_request_runs_or_waits() -> None:
    may_speak = anyio.Event()
    script = ScriptedModel(max_in_flight=1, may_speak=may_speak)
    async with Registry([ScriptedHarness({"o/a": script})]) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        await registry.wait_idle()
        first, second, waiter = Caller(registry), Caller(registry), Caller(registry)
        tasks.start_soon(first.chat)
        tasks.start_soon(second.chat)
        await let_others_run()
        tasks.start_soon(waiter.wait_idle)
        await let_others_run()
        assert not waiter.done.is_set()
        may_speak.set()
        with anyio.fail_after(PATIENCE_S):
            await registry.wait_idle()
        assert (first.done.is_set(), second.done.is_set()) == (True, True)


# ------------------------------------------------------------------------------------------------------- unloading


async def test_when_the_drain_time_is_over_running_replies_end_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(may_speak=anyio.Event())})
    async with Registry([harness], drain_timeout_s=0) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        reader = Caller(registry)
        tasks.start_soon(reader.chat)
        await let_others_run()
        await registry.unload("o/a")
        assert harness.log[-1] == "close o/a"
        await let_others_run()
        assert [type(error) for error in reader.errors] == [EngineDead]
        assert reader.events == [Started(prompt_tokens=7)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["running_requests"] == 1


@pytest.mark.parametrize("turns", range(8))
async def test_an_unload_cancels_a_load_at_whatever_point_it_is_and_tells_its_waiters(turns: int) -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(may_load=anyio.Event())})
    async with Registry([harness]) as registry:
        callers = [Caller(registry), Caller(registry)]
        async with anyio.create_task_group() as tasks:
            for caller in callers:
                tasks.start_soon(caller.load)
            await let_others_run(2 + turns)
            await registry.unload("o/a")
        assert [[type(error) for error in caller.errors] for caller in callers] == [[LoadCancelled]] * 2
        assert "already loaded" not in callers[0].errors[0].message
        assert harness.log == (["open o/a", "close o/a"] if harness.log else [])
        assert registry.loading() == ()
        assert registry.list_models() == ()


async def test_an_unload_goes_on_when_its_caller_goes_away() -> None:
    may_speak = anyio.Event()
    script = ScriptedModel(may_speak=may_speak)
    harness = ScriptedHarness({"o/a": script})
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        tasks.start_soon(Caller(registry).chat)
        await let_others_run()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await registry.unload("o/a")
        may_speak.set()
        await let_others_run()
        assert "close o/a" in harness.log


async def test_a_harness_that_cannot_unload_tells_the_caller_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    failure = EngineFailed("the process does not end")
    async with Registry([ScriptedHarness({"o/a": ScriptedModel(unload_error=failure)})]) as registry:
        await registry.load(spec())
        with pytest.raises(EngineFailed, match="does not end"):
            await registry.unload("o/a")
        assert registry.list_models() == ()
        assert registry.lost() == ()
    (record,) = caplog.records
    assert (record.levelno, vars(record)["model_id"]) == (logging.ERROR, "o/a")


# ----------------------------------------------------------------------------------------------------------- death


async def test_a_model_that_dies_is_gone_from_the_list_and_its_reason_is_kept_until_it_loads_again() -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(death="killed by SIGKILL"), "o/b": ScriptedModel()})
    async with Registry([harness]) as registry:
        await registry.load(spec("o/a"))
        await registry.load(spec("o/b"))
        harness.scripts["o/a"].dies.set()
        await let_others_run()
        assert [info.id for info in registry.list_models()] == ["o/b"]
        assert registry.lost() == (FailedLoad(model_id="o/a", error="killed by SIGKILL"),)
        with pytest.raises(ModelNotLoaded):
            await reply_text(registry, "o/a")
        assert await reply_text(registry, "o/b") == "Hello, world!"

        harness.scripts["o/a"] = ScriptedModel(load_error=LoadFailed("again"))
        with pytest.raises(LoadFailed, match="again"):
            await registry.load(spec("o/a"))
        assert len(registry.lost()) == 1
        harness.scripts["o/a"] = ScriptedModel()
        await registry.load(spec("o/a"))
        assert registry.lost() == ()


async def test_a_death_ends_running_replies_and_refuses_queued_ones_with_a_time_to_retry() -> None:
    script = ScriptedModel(max_in_flight=1, may_speak=anyio.Event(), death="killed by SIGSEGV")
    async with (
        Registry([ScriptedHarness({"o/a": script})], drain_timeout_s=math.inf) as registry,
        anyio.create_task_group() as tasks,
    ):
        await registry.load(spec())
        running, queued = Caller(registry), Caller(registry)
        tasks.start_soon(running.chat)
        await let_others_run()
        tasks.start_soon(queued.chat)
        await let_others_run()
        script.dies.set()
        await let_others_run()
        (dead,), (refused,) = running.errors, queued.errors
        assert isinstance(dead, EngineDead)
        assert dead.reason == "killed by SIGSEGV"
        assert isinstance(refused, Overloaded)
        assert (refused.reason, refused.retry_after_s) == (OverloadReason.ENGINE_LOST, 2)


@pytest.mark.parametrize("turns", range(6))
async def test_a_load_that_meets_a_dying_model_replaces_it_unless_it_came_too_early(turns: int) -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel()})
    async with Registry([harness]) as registry:
        await registry.load(spec())
        harness.scripts["o/a"].dies.set()
        await let_others_run(turns)
        harness.scripts["o/a"] = ScriptedModel()
        caller = Caller(registry)
        await caller.load()
        await let_others_run()
        assert [type(error) for error in caller.errors] == ([] if caller.loaded else [AlreadyLoaded])
        assert [info.id for info in registry.list_models()] == caller.loaded
        assert len(registry.lost()) == len(caller.errors)


class UnwatchedHarness:
    """Its models cannot say whether they live."""

    name = "unwatched"

    async def known_capabilities(self, model_id: str) -> None:  # noqa: ARG002
        return None

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async def wait_lost() -> str:
            raise ZeroDivisionError("oops")

        async with ScriptedHarness().open(spec, model_id=model_id, report=report) as model:
            model.wait_lost = wait_lost  # type: ignore[method-assign]  # replaced on purpose
            yield model


async def test_a_bug_in_a_resident_model_loses_that_model_only(caplog: pytest.LogCaptureFixture) -> None:
    async with Registry([ScriptedHarness(), UnwatchedHarness()]) as registry:
        await registry.load(spec("o/a"))
        await registry.load(spec("o/bug", harness="unwatched"))
        await let_others_run()
        assert [info.id for info in registry.list_models()] == ["o/a"]
        (lost,) = registry.lost()
        assert lost.model_id == "o/bug"
        assert lost.error.endswith("ZeroDivisionError: oops")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# ---------------------------------------------------------------------------------------------------- shutting down


async def test_leaving_the_block_cancels_loads_ends_replies_and_unloads_everything() -> None:
    harness = ScriptedHarness(
        {"o/a": ScriptedModel(may_load=anyio.Event()), "o/b": ScriptedModel(max_in_flight=1, may_speak=anyio.Event())}
    )
    async with anyio.create_task_group() as tasks:
        async with Registry([harness], drain_timeout_s=math.inf) as registry:
            loader, running, queued = Caller(registry), Caller(registry), Caller(registry)
            tasks.start_soon(loader.load, "o/a")
            await registry.load(spec("o/b"))
            await registry.load(spec("o/c"))
            tasks.start_soon(running.chat, "o/b")
            await let_others_run()
            tasks.start_soon(queued.chat, "o/b")
            await let_others_run()
        assert sorted(entry for entry in harness.log if "close" in entry) == ["close o/a", "close o/b", "close o/c"]
        assert (registry.list_models(), registry.loading()) == ((), ())
    assert [type(error) for error in loader.errors] == [ShuttingDown]
    assert [type(error) for error in running.errors] == [ShuttingDown]
    assert [type(error) for error in queued.errors] == [ShuttingDown]


async def test_an_exception_in_the_block_comes_out_as_it_is_and_models_are_unloaded() -> None:
    harness = ScriptedHarness()

    async def fail() -> None:
        async with Registry([harness]) as registry:
            await registry.load(spec())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert harness.log[-1] == "close o/a"


async def test_a_cancelled_block_unloads_its_models() -> None:
    harness = ScriptedHarness({"o/b": ScriptedModel(may_load=anyio.Event())})
    with anyio.CancelScope() as scope:
        async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
            await registry.load(spec())
            tasks.start_soon(registry.load, spec("o/b"))
            await let_others_run()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(harness.log[-2:]) == ["close o/a", "close o/b"]


async def test_after_the_block_loads_and_chats_are_refused_as_shutting_down() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec())
    with pytest.raises(ShuttingDown):
        await registry.load(spec())
    with pytest.raises(ShuttingDown):
        await reply_text(registry)


async def test_two_registries_in_one_program_do_not_know_each_other() -> None:
    async with Registry([ScriptedHarness()]) as one, Registry([ScriptedHarness()]) as other:
        await one.load(spec())
        await other.load(spec())
        await one.unload("o/a")
        assert await reply_text(other) == "Hello, world!"


async def test_the_supervision_ticks_until_the_last_model_is_gone() -> None:
    now_s = 0.0
    registry = Registry([ScriptedHarness()], clock=lambda: now_s)
    async with registry:
        await registry.load(spec())
        now_s = 100.0
        assert registry.tick_age_s() == 100.0
        while registry.tick_age_s():  # noqa: ASYNC110 - whoever looks at the age polls it
            await anyio.sleep(0.01)
    now_s = 200.0
    assert registry.tick_age_s() == 100.0
