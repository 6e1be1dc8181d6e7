import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Self

import anyio
import pytest

from neuron_lib import (
    ChatRequest,
    EngineDead,
    FailedLoad,
    Finished,
    GenerationEvent,
    HostEvent,
    LoadFailed,
    LoadProgress,
    LoadStage,
    ModelEvent,
    ModelNotLoaded,
    ModelPhase,
    ModelSpec,
    PromptTooLong,
    Registry,
    ShuttingDown,
    Started,
    TextDelta,
    Usage,
    load_default_models,
)
from neuron_lib.blocking import BlockingRegistry, BlockingReply
from neuron_lib.registry.startup import ActivationTracker
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.patience import PATIENCE_S

SPEC = ModelSpec(model_id="o/a", harness="scripted")
REQUEST = ChatRequest(model_id="o/a", messages=({"role": "user", "content": "Hi"},))


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def registry_of(script: ScriptedModel | None = None, backend: str = "asyncio") -> BlockingRegistry:
    harness = ScriptedHarness({} if script is None else {"o/a": script})
    return BlockingRegistry(Registry([harness], drain_timeout_s=0.0), backend=backend)


def texts(reply: BlockingReply) -> list[str]:
    return [event.text for event in reply if isinstance(event, TextDelta)]


# ------------------------------------------------------------------------------------------------ loads and replies


def test_a_program_without_an_event_loop_loads_chats_and_unloads(backend: str) -> None:
    with registry_of(backend=backend) as registry:
        assert registry.load(SPEC).id == "o/a"
        with registry.chat(REQUEST) as reply:
            events = list(reply)
        registry.unload("o/a")
        assert registry.list_models() == ()
    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello, world!"
    assert isinstance(events[-1], Finished)
    assert reply.usage == events[-1].usage
    assert not reply.retried


def test_a_refusal_is_raised_where_the_reply_is_entered() -> None:
    with registry_of(ScriptedModel(n_ctx=4)) as registry:
        absent = registry.chat(REQUEST)
        with pytest.raises(ModelNotLoaded), absent:
            pass
        registry.load(SPEC)
        with pytest.raises(PromptTooLong), registry.chat(REQUEST):
            pass


def test_a_reply_that_fails_half_way_gives_what_it_had_and_then_raises() -> None:
    script = ScriptedModel(reply=["one", "two", EngineDead("o/a", "killed")])
    with registry_of(script) as registry:
        registry.load(SPEC)
        read = list[str]()
        with registry.chat(REQUEST) as reply, pytest.raises(EngineDead):
            read.extend(event.text for event in reply if isinstance(event, TextDelta))
    assert read == ["one", "two"]


def test_leaving_a_reply_early_frees_its_seat_before_the_next_line_runs() -> None:
    script = ScriptedModel(max_in_flight=1, max_queue_depth=0, reply=["a"] * 1000)
    with registry_of(script) as registry:
        registry.load(SPEC)
        for _ in range(3):
            with registry.chat(REQUEST) as reply:
                assert isinstance(next(reply), Started)


def test_an_exception_of_the_program_leaves_the_reply_and_is_raised() -> None:
    with registry_of(ScriptedModel(max_in_flight=1, max_queue_depth=0, may_speak=anyio.Event())) as registry:
        registry.load(SPEC)
        with pytest.raises(ZeroDivisionError), registry.chat(REQUEST):
            raise ZeroDivisionError
        with registry.chat(REQUEST):
            pass


def test_threads_share_one_registry() -> None:
    with registry_of() as registry, ThreadPoolExecutor(8) as pool:
        registry.load(SPEC)

        def chat(_: int) -> str:
            with registry.chat(REQUEST) as reply:
                return "".join(texts(reply))

        assert set(pool.map(chat, range(24))) == {"Hello, world!"}


class CountedReply:
    """A reply without end that counts its events and knows the task in which it was entered."""

    def __init__(self) -> None:
        self.given = 0
        self.tasks = set[int]()
        self.retried = False
        self.usage = Usage(prompt_tokens=0, completion_tokens=0)

    async def __aenter__(self) -> Self:
        self.tasks.add(anyio.get_current_task().id)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tasks.add(anyio.get_current_task().id)

    def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        return self

    async def __anext__(self) -> GenerationEvent:
        self.tasks.add(anyio.get_current_task().id)
        self.given += 1
        return TextDelta("a")


def test_a_reply_waits_for_a_thread_that_does_not_read(backend: str) -> None:
    reply = CountedReply()
    with registry_of(backend=backend) as registry:
        with BlockingReply(registry, reply) as read:
            next(read)
            registry.call(anyio.wait_all_tasks_blocked)
            given = reply.given
            registry.call(anyio.wait_all_tasks_blocked)
            assert reply.given == given < 1000
        assert len(reply.tasks) == 1


def test_a_reply_is_read_inside_of_its_block_which_is_entered_once() -> None:
    with registry_of() as registry:
        registry.load(SPEC)
        reply = registry.chat(REQUEST)
        with pytest.raises(RuntimeError, match="inside"):
            next(reply)
        with reply:
            next(reply)
        with pytest.raises(RuntimeError, match="inside"):
            next(reply)
        with pytest.raises(RuntimeError, match="once"), reply:
            pass


def test_default_models_load_one_after_another_and_a_broken_one_is_told() -> None:
    harness = ScriptedHarness({"o/a": ScriptedModel(load_error=LoadFailed("no such file"))})
    with BlockingRegistry(Registry([harness])) as registry:
        done = registry.load_default_models([SPEC, ModelSpec(model_id="o/b", harness="scripted")])
        assert done.completed == ("o/b",)
        assert done.failed == (FailedLoad(model_id="o/a", error="no such file"),)


def test_a_program_follows_a_load_that_goes_on_meanwhile(backend: str) -> None:
    may_load = anyio.Event()
    half = LoadProgress(stage=LoadStage.LOADING, fraction=0.5)
    with registry_of(ScriptedModel(stages=(half,), may_load=may_load), backend) as registry:
        load = registry.start_load(SPEC)
        seen = []
        for loading in registry.loading_changes():
            seen += [each.progress for each in loading]
            if half in seen:
                registry.call(may_load.set)
            if seen and not loading:
                break
        assert load.result().id == "o/a"


def test_events_are_those_since_they_were_asked_for_and_end_with_the_registry(backend: str) -> None:
    with registry_of(backend=backend) as registry:
        events = registry.events()
        closed = registry.events()
        registry.load(SPEC)
        seen: list[HostEvent] = []
        for event in events:
            seen.append(event)
            if isinstance(event, ModelEvent) and event.phase is ModelPhase.SERVING:
                break
        resumed = next(registry.events(seen[0].id))
    phases = [event.phase for event in seen if isinstance(event, ModelEvent)]
    assert phases == [ModelPhase.LOADING, ModelPhase.SERVING]
    assert resumed == seen[1]
    assert [*closed] == []


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
def test_a_function_that_ends_the_event_loop_closes_the_registry_and_is_raised(end: BaseException) -> None:
    def run() -> None:
        raise end

    registry = registry_of().open()
    with pytest.raises(type(end)):
        registry.call(run)
    with pytest.raises(type(end)):
        registry.close()  # waits for the end, which other threads may not see at once
    with pytest.raises(ShuttingDown):
        registry.list_models()


def test_default_models_can_load_in_the_background() -> None:
    may_load = anyio.Event()
    with registry_of(ScriptedModel(may_load=may_load)) as registry:
        tracker = ActivationTracker([SPEC])
        load = registry.submit(load_default_models, registry.asynchronous, [SPEC], tracker)
        assert registry.call(tracker.snapshot).completed == ()
        registry.call(may_load.set)
        load.result()
        assert registry.call(tracker.snapshot).completed == ("o/a",)


def test_what_a_registry_knows_can_be_asked() -> None:
    with registry_of() as registry:
        registry.register(ScriptedHarness(name="other"))
        registry.load(SPEC)
        assert registry.info("o/a") == registry.list_models()[0]
        assert registry.capabilities("o/a") == ("text",)
        assert [load.id for load in registry.loads()] == ["o/a"]
        assert (registry.loading(), registry.unloading(), registry.lost()) == ((), (), ())
        assert registry.call(registry.asynchronous.endpoint, "o/a") == "http://localhost:13131"
        with pytest.raises(LoadFailed):
            registry.estimate(SPEC)


REACHED_BY_CALL = {
    "announce_stop",
    "close_admission",
    "endpoint",
    "fetched_bytes",
    "follow",
    "loaded_unix_s",
    "measures",
    "on_demand",
    "recent_events",
    "residency_counts",
    "rpc_servers",
    "set_residency",
    "tell_refused_load",
    "tell_reload",
    "tick_age_s",
    "wait_idle",
}


def methods_of(cls: type) -> set[str]:
    return {name for name, value in vars(cls).items() if isinstance(value, FunctionType) and not name.startswith("_")}


def test_a_method_of_a_registry_is_offered_or_left_to_call_on_purpose() -> None:
    own = {"call", "close", "load_default_models", "open", "start_load", "submit"}
    assert methods_of(BlockingRegistry) - own == methods_of(Registry) - REACHED_BY_CALL
    assert methods_of(Registry) >= REACHED_BY_CALL


def test_methods_of_one_name_take_the_same_arguments() -> None:
    shared = methods_of(BlockingRegistry) & methods_of(Registry) - {"run"}
    different = [
        name
        for name in shared
        if inspect.signature(getattr(BlockingRegistry, name)).parameters
        != inspect.signature(getattr(Registry, name)).parameters
    ]
    assert different == []


# ---------------------------------------------------------------------------------------------------------- the end


def test_closing_ends_what_waits_in_other_threads(backend: str) -> None:
    registry = registry_of(ScriptedModel(may_load=anyio.Event()), backend).open()
    load = registry.start_load(SPEC)
    never = registry.submit(anyio.sleep_forever)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(registry.call, anyio.sleep_forever)
        registry.call(anyio.wait_all_tasks_blocked)
        registry.close()
        with pytest.raises(ShuttingDown):
            waiting.result()
    with pytest.raises(ShuttingDown):
        load.result()
    assert never.cancelled()


def test_closing_ends_a_reply_that_nobody_reads() -> None:
    registry = registry_of(ScriptedModel(reply=["a"] * 1000)).open()
    registry.load(SPEC)
    with registry.chat(REQUEST) as reply:
        registry.close()
        with pytest.raises(ShuttingDown):
            texts(reply)


def test_a_closed_registry_says_that_it_is_shutting_down() -> None:
    with registry_of() as registry:
        changes = registry.loading_changes()
        assert next(changes) == ()
    registry.close()
    for use in (registry.list_models, lambda: registry.load(SPEC), lambda: next(changes)):
        with pytest.raises(ShuttingDown):
            use()
    with pytest.raises(ShuttingDown), registry.chat(REQUEST):
        pass


def test_a_registry_is_used_after_it_was_opened_once() -> None:
    registry = registry_of()
    with pytest.raises(RuntimeError, match="opened"):
        registry.list_models()
    registry.close()
    with registry, pytest.raises(RuntimeError, match="once"):
        registry.open()


def test_the_thread_of_the_event_loop_is_told_that_it_cannot_wait_for_itself() -> None:
    with registry_of() as registry, pytest.raises(RuntimeError, match="event loop thread"):
        registry.call(registry.list_models)


class BrokenRegistry(Registry):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await super().__aexit__(None, None, None)
        raise OSError("no more threads")


def test_a_registry_that_cannot_be_entered_says_why_where_it_is_opened() -> None:
    with pytest.raises(OSError, match="no more threads"):
        BlockingRegistry(BrokenRegistry()).open()


INTERRUPTED = """
import signal, threading
import anyio
from neuron_lib import Registry
from neuron_lib.blocking import BlockingRegistry

cancelled = threading.Event()

async def interrupt_the_caller():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    try:
        await anyio.sleep_forever()
    finally:
        cancelled.set()

with BlockingRegistry(Registry()) as registry:
    try:
        registry.call(interrupt_the_caller)
    except KeyboardInterrupt:
        print(cancelled.wait(60), registry.list_models())
"""


@pytest.mark.process
def test_an_interrupt_cancels_what_was_called_and_not_the_registry() -> None:
    # In a process of its own, because an interrupt that went astray would end the tests.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout == "True ()\n"


# -------------------------------------------------------------------------------------------------- other processes


@pytest.fixture
def opened(process: None) -> Iterator[BlockingRegistry]:
    with registry_of() as registry:
        registry.load(SPEC)
        yield registry


def test_a_forked_worker_is_told_to_open_its_own_and_leaves_without_waiting(opened: BlockingRegistry) -> None:
    with opened.chat(REQUEST) as reply:
        child = os.fork()
        if child == 0:
            try:
                opened.list_models()
            except RuntimeError as error:
                reply.__exit__(None, None, None)
                opened.close()
                os._exit(0 if "open a registry in each worker" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert "".join(texts(reply)) == "Hello, world!"


@pytest.mark.process
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_a_program_closes_its_registry(backend: str) -> None:
    program = f"""
        import atexit
        import anyio
        from neuron_lib import ModelSpec, Registry
        from neuron_lib.blocking import BlockingRegistry
        from neuron_lib.testing import ScriptedHarness

        harness = ScriptedHarness()
        atexit.register(lambda: print(*harness.log, sep=", "))
        registry = BlockingRegistry(Registry([harness]), backend={backend!r}).open()
        registry.load(ModelSpec(model_id="o/a", harness="scripted"))
        registry.call(anyio.to_thread.run_sync, len, "so that the event loop has a thread of its own")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "open o/a, loaded o/a, close o/a\n"
    assert done.stderr == ""
