"""A registry for programs without an event loop: scripts, notebooks, WSGI applications, workers of a job queue.

Owns one thread with an event loop, in which the `Registry` lives. Decides nothing: every answer and every error is that
of the registry.
"""

import atexit
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import ExitStack, suppress
from inspect import isawaitable
from threading import Thread, current_thread
from types import TracebackType
from typing import Any, Final, Self, TypeVar, TypeVarTuple, overload

import anyio
from anyio.from_thread import BlockingPortal
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from neuron_lib.errors import ShuttingDown, first_leaf
from neuron_lib.harness import Harness, Reply
from neuron_lib.registry.event_log import HostEvents
from neuron_lib.registry.registry import Registry
from neuron_lib.registry.startup import ActivationTracker, load_default_models
from neuron_lib.types import (
    ActivationSnapshot,
    Chat,
    FailedLoad,
    GenerationEvent,
    HostEvent,
    LoadingModel,
    MemoryPlan,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    Task,
    UnloadingModel,
    Usage,
)

__all__ = ("BlockingRegistry", "BlockingReply")

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_EVENTS_AHEAD: Final = 256
"""Events of a reply that are kept for a thread that has not read them yet. Then the reply waits for the thread."""


class BlockingRegistry:
    """A `Registry` whose methods wait in the calling thread. Any thread may call them, several at the same time.

    Use it as `with BlockingRegistry(Registry([harness])) as registry`. In a notebook, call `open` and later `close`. It
    is opened once. Opening starts a thread with an event loop. Closing does what leaving a `Registry` does, and ends
    the thread. If a program ends without closing it, it is closed then.

    Ctrl-C interrupts a method that waits. Functions that were given to the `Registry`, such as `on_reply`, run in the
    thread of the event loop, and must not call this object.

    A forked process has no copy of the thread. There every method raises RuntimeError, and `close` does nothing. So
    open a registry in each worker, after the fork.
    """

    def __init__(self, registry: Registry, *, backend: str = "asyncio") -> None:
        """`registry` has not been entered before. `backend` is the event loop: "asyncio" or "trio"."""
        self._registry = registry
        self._backend = backend
        self._pid = 0  # of the process in which it was opened
        self._portal: BlockingPortal | None = None  # None before it is opened
        self._thread: Thread | None = None  # with the event loop; None before it is opened
        self._closing: anyio.Event | None = None  # set by `close`; None unless it is open
        self._ended = Future[None]()

    def __repr__(self) -> str:
        return f"<BlockingRegistry of {self._registry!r}>"

    # ------------------------------------------------------------------------------------------- opening, closing

    def open(self) -> Self:
        """Start the thread and enter the registry. Raises RuntimeError if it was opened before."""
        if self._pid:
            raise RuntimeError("a BlockingRegistry can be opened once: make another one")
        self._pid = os.getpid()
        opened = Future[BlockingPortal]()
        # A daemon, because the interpreter would otherwise wait for the thread before it calls `close`.
        self._thread = Thread(target=self._run, args=[opened], name="neuron registry", daemon=True)
        self._thread.start()
        try:
            self._portal = opened.result()
        except BaseException:
            opened.cancel()  # does nothing if it was the registry that has failed
            raise
        atexit.register(self.close)
        return self

    def close(self) -> None:
        """Leave the registry and end the thread. Does nothing if it is not open, and in a forked process.

        Loads are cancelled, running replies end with an error, and all models are unloaded when this returns.
        """
        if self._portal is None or not self.is_of_this_process:
            return
        atexit.unregister(self.close)
        if self._closing is not None and not self._ended.done():
            with suppress(ShuttingDown):  # then a function has ended the event loop
                self.submit(self._closing.set)
            self._closing = None
        self._ended.result()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, opened: Future[BlockingPortal]) -> None:
        """The thread."""
        try:
            anyio.run(self._live, opened, backend=self._backend)
        except BaseException as error:  # noqa: BLE001 - the thread that opens or closes it raises it
            reason = first_leaf(error) if isinstance(error, BaseExceptionGroup) else error
            (self._ended if opened.done() else opened).set_exception(reason)
        else:
            self._ended.set_result(None)

    async def _live(self, opened: Future[BlockingPortal]) -> None:
        async with BlockingPortal() as portal:
            async with self._registry:
                closing = self._closing = anyio.Event()
                if opened.set_running_or_notify_cancel():
                    opened.set_result(portal)
                    await closing.wait()
            await portal.stop(cancel_remaining=True)  # the end waits for no function that was submitted

    # ------------------------------------------------------------------------------------- the way to the event loop

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was opened in this process, and not in one of which this process is a fork."""
        return self._pid == os.getpid()

    @property
    def asynchronous(self) -> Registry:
        """The registry inside. Its methods run in the thread of the event loop only, so call them by `call`."""
        return self._registry

    @overload
    def call(self, function: Callable[[*_Args], Awaitable[_Result]], *args: *_Args) -> _Result: ...
    @overload
    def call(self, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result: ...
    def call(self, function: Callable[[*_Args], Any], *args: *_Args) -> Any:
        """Call `function` in the thread of the event loop, await what it returns if that can be awaited, and return it.

        An interrupt cancels the function and is raised at once. Raises `ShuttingDown` if the registry is closed before
        the function returns.
        """
        work = _Cancellable(function, args)
        try:
            return self.submit(work.run).result()
        except CancelledError as error:
            raise ShuttingDown from error
        except BaseException:
            # Not by the future: an interrupt may come before `submit` has returned the future.
            with suppress(RuntimeError, ShuttingDown):  # then the function has ended with the event loop
                self.submit(work.cancel)
            raise

    @overload
    def submit(self, function: Callable[[*_Args], Awaitable[_Result]], *args: *_Args) -> Future[_Result]: ...
    @overload
    def submit(self, function: Callable[[*_Args], _Result], *args: *_Args) -> Future[_Result]: ...
    def submit(self, function: Callable[[*_Args], Any], *args: *_Args) -> Future[Any]:
        """Like `call`, but do not wait. Cancelling the future cancels the function. So does closing the registry."""
        if self._portal is None:
            raise RuntimeError("a BlockingRegistry must be opened, or entered with `with`, before it is used")
        if not self.is_of_this_process:
            raise RuntimeError(
                f"this BlockingRegistry was opened in process {self._pid}, and this process is a fork of that one: "
                "open a registry in each worker"
            )
        try:
            return self._portal.start_task_soon(function, *args)
        except RuntimeError as error:
            if current_thread() is self._thread:
                raise
            raise ShuttingDown from error

    def _iterate(self, items: AsyncGenerator[_Item]) -> Iterator[_Item]:
        try:
            while True:
                yield self.call(_next_of, items)
        except StopAsyncIteration:
            pass
        finally:
            with suppress(RuntimeError, ShuttingDown):  # then it has ended with the event loop
                self.submit(items.aclose)

    # ----------------------------------------------------------------------------------------- loading, unloading

    def load(self, spec: ModelSpec, *, may_displace: bool = True) -> ModelInfo:
        """See `Registry.load`."""
        return self.call(lambda: self._registry.load(spec, may_displace=may_displace))

    def start_load(self, spec: ModelSpec, *, may_displace: bool = True) -> Future[ModelInfo]:
        """Like `load`, but do not wait. Cancelling the future does not cancel the load; `unload` does."""
        return self.submit(lambda: self._registry.load(spec, may_displace=may_displace))

    def load_default_models(self, specs: Sequence[ModelSpec]) -> ActivationSnapshot:
        """Load models one after another, and wait until each serves or has failed. Returns which have failed, and why.

        See `neuron_lib.load_default_models`. To go on meanwhile, `submit` that function with a tracker of your own.
        """
        tracker = ActivationTracker(specs)
        self.call(load_default_models, self._registry, specs, tracker)
        return tracker.snapshot()

    def unload(self, model_id: str) -> None:
        """See `Registry.unload`."""
        self.call(self._registry.unload, model_id)

    def estimate(self, spec: ModelSpec) -> MemoryPlan:
        """See `Registry.estimate`."""
        return self.call(self._registry.estimate, spec)

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """See `Registry.register`."""
        self.call(lambda: self._registry.register(harness, aliases=aliases))

    # --------------------------------------------------------------------------------------------------- chatting

    def chat(self, request: Chat) -> "BlockingReply":
        """The reply to a chat: `run` for the most usual task."""
        return self.run(request)

    def run(self, task: Task) -> "BlockingReply":
        """The reply to `task`. Nothing happens, and nothing is refused, until the reply is entered with `with`."""
        return BlockingReply(self, self._registry.run(task))

    # ---------------------------------------------------------------------------------------------------- looking

    def list_models(self) -> tuple[ModelInfo, ...]:
        """See `Registry.list_models`."""
        return self.call(self._registry.list_models)

    def info(self, model_id: str) -> ModelInfo:
        """See `Registry.info`."""
        return self.call(self._registry.info, model_id)

    def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """See `Registry.capabilities`."""
        return self.call(self._registry.capabilities, model_id)

    def loads(self) -> tuple[ModelLoad, ...]:
        """See `Registry.loads`."""
        return self.call(self._registry.loads)

    def loading(self) -> tuple[LoadingModel, ...]:
        """See `Registry.loading`."""
        return self.call(self._registry.loading)

    def unloading(self) -> tuple[UnloadingModel, ...]:
        """See `Registry.unloading`."""
        return self.call(self._registry.unloading)

    def lost(self) -> tuple[FailedLoad, ...]:
        """See `Registry.lost`."""
        return self.call(self._registry.lost)

    def loading_changes(self) -> Iterator[tuple[LoadingModel, ...]]:
        """The loads that run, now and after each change. Each step waits for a change. See `Registry.loading_changes`.

        The iterator belongs to one thread. It has no end of its own until the registry is closed, so leave the loop.
        """
        return self._iterate(self._registry.loading_changes())

    def events(self, after: str | None = None) -> Iterator[HostEvent]:
        """What happens on this host, as it happens. Each step waits for an event. See `Registry.events`.

        The iterator belongs to one thread. The events are those after this call, whenever the first step is made. The
        iterator ends when the registry is closed.
        """
        return _each(self, self.call(self._registry.events, after))


def _each(registry: BlockingRegistry, events: HostEvents) -> Iterator[HostEvent]:
    try:
        while batch := registry.call(events.next_batch):
            yield from batch
    except ShuttingDown:
        pass


class BlockingReply:
    """What becomes of one task: `with registry.run(task) as reply`, then `for event in reply`. See `Reply`.

    Lives for one `with` block. One thread at a time reads it. One task of the event loop enters, reads and leaves the
    reply, and is at most some hundred events ahead of the thread.
    """

    def __init__(self, registry: BlockingRegistry, reply: Reply) -> None:
        """`reply` has not been entered."""
        self._registry = registry
        self._reply = reply
        self._entered = Future[None]()
        self._ended = Future[None]()
        self._leaving: ExitStack | None = None  # None before it is entered
        self._events: MemoryObjectReceiveStream[GenerationEvent] | None = None  # None outside of the block
        self._read = deque[GenerationEvent]()

    @property
    def retried(self) -> bool:
        """See `Reply.retried`."""
        return self._reply.retried

    @property
    def usage(self) -> Usage:
        """See `Reply.usage`."""
        return self._reply.usage

    def __enter__(self) -> Self:
        if self._leaving is not None:
            raise RuntimeError("a BlockingReply can be entered once: ask for another one")
        write, events = anyio.create_memory_object_stream[GenerationEvent](_EVENTS_AHEAD)
        with ExitStack() as stack:
            self._leaving = stack
            stack.enter_context(events)
            stack.enter_context(write)
            stack.callback(self._leave, self._registry.submit(self._make, write))
            wait((self._entered, self._ended), return_when=FIRST_COMPLETED)
            if not self._entered.done():
                self._ended.result()
            self._events, self._leaving = events, stack.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._leaving is not None  # entered
        self._events = None
        self._leaving.close()

    def __iter__(self) -> Iterator[GenerationEvent]:
        return self

    def __next__(self) -> GenerationEvent:
        if self._events is None:
            raise RuntimeError("a BlockingReply is read inside of its `with` block")
        if not self._read:
            try:
                self._read.extend(self._registry.call(_take, self._events))
            except anyio.EndOfStream:
                self._ended.result()
                raise StopIteration from None
        return self._read.popleft()

    async def _make(self, write: MemoryObjectSendStream[GenerationEvent]) -> None:
        """Enter, read and leave the reply, in one task. The stream ends with the reply."""
        try:
            with write:
                async with self._reply:
                    self._entered.set_result(None)
                    async for event in self._reply:
                        await write.send(event)
        except anyio.get_cancelled_exc_class():
            self._ended.set_exception(ShuttingDown())
            raise
        except Exception as error:  # noqa: BLE001 - the thread that reads raises it
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _leave(self, making: Future[None]) -> None:
        """Have the reply left, and wait until what it held is free."""
        if self._registry.is_of_this_process:
            making.cancel()
            wait((self._ended,))


async def _take(events: MemoryObjectReceiveStream[_Item]) -> list[_Item]:
    """What has not been read, one item at least. Raises `EndOfStream` after the last."""
    items = [await events.receive()]
    with suppress(anyio.WouldBlock, anyio.EndOfStream):
        while True:
            items.append(events.receive_nowait())
    return items


class _Cancellable:
    """A call of a function in the thread of the event loop. Its methods run in that thread."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False

    async def run(self) -> Any:
        """The result of the function, awaited if it can be awaited. None if it was cancelled."""
        if self._is_cancelled:
            return None
        with anyio.CancelScope() as self._scope:
            result = self._function(*self._args)
            return await result if isawaitable(result) else result
        return None

    def cancel(self) -> None:
        """Cancel the function, whether it has begun or not. Does nothing if it has ended."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()


async def _next_of(items: AsyncGenerator[_Item]) -> _Item:
    return await anext(items)
