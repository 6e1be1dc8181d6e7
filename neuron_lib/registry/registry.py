"""The models of one host: loads, unloads and lists them, and leases them to requests.

Each model is one `HostedModel`, which lives in one task of the registry. So a caller that goes away stops waiting and
changes nothing else, and whatever a model holds is released by one `async with`. The registry knows backends only by
the protocol in `neuron_lib.harness`.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self

import anyio
from msgspec.structs import replace

from neuron_lib.errors import (
    AlreadyLoaded,
    LoadCancelled,
    ModelLoading,
    ModelNotLoaded,
    ShuttingDown,
)
from neuron_lib.harness import Generation, Harness, LoadedModel
from neuron_lib.logs import get_logger
from neuron_lib.registry.absent_models import AbsentModels
from neuron_lib.registry.harnesses import Harnesses
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.hosted_models import HostedModels, HostLimits
from neuron_lib.registry.leased_reply import LeasedReply
from neuron_lib.registry.phases import Event
from neuron_lib.registry.startup import ActivationTracker
from neuron_lib.types import (
    ChatRequest,
    EndedReply,
    FailedLoad,
    LoadingModel,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    UnloadingModel,
    public_id,
)

__all__ = ("Registry",)

logger = get_logger(__name__)

_ON_UNLOADED_LIMIT_S: Final = 5.0
"""The unload returns after this time, whatever `on_unloaded` does."""


class Registry:
    """The models of one host. Use it as `async with Registry([harness]) as registry`, from one event loop.

    Methods without `async` only look at memory, and never wait. Leaving the block refuses queued requests, ends running
    ones, cancels loads and unloads every model.
    """

    def __init__(
        self,
        harnesses: Iterable[Harness] = (),
        *,
        endpoint_url: str = "http://localhost:13131",
        drain_timeout_s: float = 60.0,
        unload_timeout_s: float = 20.0,
        max_loads: int = 64,
        wait_for_load_s: float = 0.0,
        on_unloaded: Callable[[], Awaitable[None]] | None = None,
        on_reply: Callable[[EndedReply], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoint_url` is what `endpoint` answers.

        An unload waits up to `drain_timeout_s` for running requests, and then up to `unload_timeout_s` for the harness
        to let the model go. At most `max_loads` loads are under way at once, loads that wait for something included.
        A chat with a model that is being loaded, or will be, waits up to `wait_for_load_s` for the model before the
        chat is refused with `ModelLoading`.

        `on_unloaded` is awaited, for 5 s at most, when the memory of a model is back and before the unload returns.
        The devices can be read anew there. `on_reply` is called once for each reply that was entered and has ended, at
        the end of its block. It must not wait; what it raises is logged and does not reach the reply. `clock` gives
        seconds, by which the times of loads, unloads and replies are told.
        """
        self.endpoint_url = endpoint_url
        self.limits = HostLimits(
            drain_timeout_s=drain_timeout_s, unload_timeout_s=unload_timeout_s, max_loads=max_loads
        )
        self.wait_for_load_s = wait_for_load_s
        self._on_unloaded = on_unloaded
        self._on_reply = on_reply
        self._clock = clock
        self._harnesses = Harnesses()
        self._absent = AbsentModels()
        self._models = HostedModels(
            limits=self.limits,
            clock=clock,
            on_change=self._absent.note,
            on_released=self._tell_of_unload,
        )
        self._farewell: _Farewell | None = None  # None as long as loads and requests are admitted
        for harness in harnesses:
            self.register(harness)

    def __repr__(self) -> str:
        return f"<Registry [{', '.join(f'{model.model_id} {model.phase}' for model in self._models.values())}]>"

    async def __aenter__(self) -> Self:
        await self._models.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self.close_admission()
        finally:
            await self._models.__aexit__(exc_type, exc, tb)
        self._farewell = _Farewell((), {})

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        self._harnesses.register(harness, aliases=aliases)

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The registered harnesses' own names."""
        return self._harnesses.names

    def follow(self, activation: ActivationTracker) -> None:
        """Count the models that `activation` awaits as models that will be loaded. `load_default_models` calls this.

        As soon as such a model serves, whoever loaded it, it is completed in `activation`.
        """
        self._absent.activation = activation
        for model in self._models.values():
            self._absent.note(model)

    # ----------------------------------------------------------------------------------------- loading, unloading

    async def load(self, spec: ModelSpec) -> ModelInfo:
        """Load a model and wait until it serves.

        Loads of one id are single-flight: a second caller waits for the load of the first, and is then told
        `AlreadyLoaded`, or the same failure. A load of a model that is being unloaded waits until the model is gone.
        Cancelling the caller does not cancel the load.

        Raises `UnknownHarness`, `AlreadyLoaded`, `ShuttingDown`, `Overloaded` if too many loads are under way, any
        `LoadFailed` or `SourceUnavailable` of the harness, `LoadCancelled` if the model is unloaded meanwhile, and
        `UnloadFailed` if a model of this id does not go.
        """
        while (model := self._models.find_same(spec)) is not None:
            if not model.is_leaving:
                await self._outcome(model)
                raise AlreadyLoaded(model.model_id)
            try:
                with self._absent.queued(model.model_id):
                    await model.departure()
            finally:
                self._models.changes.notify()  # chats that wait for this load look again, whatever becomes of it
        loaded = await self._outcome(self._start_load(spec))
        return loaded.info()

    async def _outcome(self, model: HostedModel) -> LoadedModel:
        try:
            return await model.outcome()
        except LoadCancelled as error:
            if self._farewell is not None:
                raise ShuttingDown from error  # which says where to go instead
            raise

    def _start_load(self, spec: ModelSpec) -> HostedModel:
        if self._farewell is not None:
            raise ShuttingDown
        harness = self._harnesses.find(spec, model_id=public_id(spec.model_id))
        return self._models.load(spec, harness)

    async def _tell_of_unload(self, model: HostedModel) -> None:
        if self._on_unloaded is None or self._farewell is not None:
            return
        try:
            with anyio.move_on_after(_ON_UNLOADED_LIMIT_S):
                await self._on_unloaded()
        except Exception:  # a failure of `on_unloaded` is no failure of the unload
            logger.exception("bug in the callback `on_unloaded`", extra={"model_id": model.model_id})

    async def unload(self, model_id: str) -> None:
        """Drain a model, unload it, and return when its memory is back; a load that runs is cancelled.

        From now on the model takes no requests: new requests, and those that wait or are being prepared, are refused
        with `ModelNotLoaded` at once. Requests that still run after `drain_timeout_s`, or whose model recovers from a
        crash, end with an error. A second caller waits for the same end.

        Raises `ModelNotLoaded`, what went wrong if the harness could not unload it, or `UnloadFailed` if the harness
        has not done so after `unload_timeout_s`; the memory of the model may still be taken then.
        """
        model = self._models.find(model_id)
        if model is None:
            raise ModelNotLoaded(model_id)
        model.refuse(lambda: ModelNotLoaded(model_id))
        model.move(Event.UNLOADED)
        await model.departure()
        if model.unload_failure is not None:
            raise model.unload_failure

    def close_admission(self) -> None:
        """First step of a shutdown: cancel loads, refuse queued and new requests and loads; what runs goes on."""
        if self._farewell is None:
            self._farewell = _Farewell(self.list_models(), self.loaded_unix_s())
        for model in self._models.values():
            model.refuse(ShuttingDown)
            model.move(Event.ADMISSION_CLOSED)
        self._models.changes.notify()

    async def wait_idle(self) -> None:
        """Wait until no request runs or waits. Without `close_admission` before it, that may never be."""
        await self._models.wait_idle()

    def tick_age_s(self) -> float:
        """Seconds since the supervision of the models last moved; far more than one means that it hangs."""
        return self._models.tick_age_s()

    # --------------------------------------------------------------------------------------------------- chatting

    def chat(self, request: ChatRequest) -> Generation:
        """A reply to `request`; nothing happens, and nothing is refused, until it is entered (see `Generation`).

        Entering raises `ModelLoading` for a model that is being loaded or will be, after `wait_for_load_s`, and
        `ModelNotLoaded` for a model that nobody loads.
        """
        return LeasedReply(
            request,
            find=self._await_serving,
            is_stopping=lambda: self._farewell is not None,
            on_end=self._on_reply,
            clock=self._clock,
        )

    async def _await_serving(self, model_id: str) -> HostedModel:
        """The model, after waiting up to `wait_for_load_s` for the end of its load. Raises why it does not serve."""
        with anyio.move_on_after(self.wait_for_load_s):
            while self._farewell is None and isinstance(self._serving_or_why_not(model_id), ModelLoading):
                await self._absent.next_change(self._models.find(model_id), self._models.changes)
        if self._farewell is not None:
            raise ShuttingDown
        found = self._serving_or_why_not(model_id)
        if isinstance(found, ModelNotLoaded):
            raise found
        return found

    def _serving_or_why_not(self, model_id: str) -> HostedModel | ModelNotLoaded:
        model = self._models.find(model_id)
        return model if model is not None and model.serves else self._absent.explain(model_id, model)

    # ---------------------------------------------------------------------------------------------------- looking

    def list_models(self) -> tuple[ModelInfo, ...]:
        """The models that serve.

        Once no more is admitted: the models that served then, as `recovering`, until the registry is left. A gateway
        stops sending requests to them, and knows that no other host needs to load them.
        """
        if self._farewell is not None:
            return self._farewell.models
        return tuple(model.loaded.info() for model in self._models.serving())

    def loaded_unix_s(self) -> Mapping[str, int]:
        """When each of them began to serve, by id, in seconds of Unix time; of models that are leaving as well."""
        if self._farewell is not None:
            return self._farewell.loaded_unix_s
        return {m.model_id: m.loaded_unix_s for m in self._models.values() if m.loaded_unix_s is not None}

    def loads(self) -> tuple[ModelLoad, ...]:
        """How busy each model is that serves."""
        return tuple(model.loaded.load() for model in self._models.serving())

    def loading(self) -> tuple[LoadingModel, ...]:
        """The loads that run now. A load that was cancelled is in `unloading` until its memory is back."""
        return tuple(model.as_loading() for model in self._models.values() if model.is_loading)

    def unloading(self) -> tuple[UnloadingModel, ...]:
        """The models that are on their way out and whose memory is not back yet."""
        return tuple(model.as_unloading() for model in self._models.values() if model.is_leaving)

    async def loading_changes(self) -> AsyncGenerator[tuple[LoadingModel, ...], None]:
        """What `loading` says now and after every change of it; changes nobody awaited in between are merged.

        Ends when no more models are admitted, with nothing loading as its last word.
        """
        said = None
        async for _ in self._models.changes:
            is_last, loading = self._farewell is not None, self.loading()
            progress = [(load.model_id, load.progress) for load in loading]
            if progress != said:
                said = progress
                yield loading
            if is_last:
                return

    def lost(self) -> tuple[FailedLoad, ...]:
        """The models that died by themselves and were not loaded again, with the reason."""
        return self._absent.lost()

    def endpoint(self, model_id: str) -> str:
        """The base URL at which this model answers, or will when its load has ended. Raises `ModelNotLoaded`."""
        found = self._serving_or_why_not(model_id)
        if isinstance(found, HostedModel | ModelLoading) or self._leaves_with_the_host(model_id):
            return self.endpoint_url
        raise found

    def _leaves_with_the_host(self, model_id: str) -> bool:
        """Whether the model goes because the host stops. A gateway that got a 404 for it would try no other host."""
        id_ = public_id(model_id)
        return self._farewell is not None and (
            id_ in self._models or any(info.id == id_ for info in self._farewell.models)
        )

    async def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What the model can do; of a model that does not serve, what local files say. None: this host cannot say."""
        model = self._models.find(model_id)
        if model is not None and model.serves:
            return model.loaded.info().capabilities
        return await self._harnesses.known_capabilities(model_id)


class _Farewell:
    """What is said of the models that served when admission closed, until the registry is left."""

    def __init__(self, models: Iterable[ModelInfo], loaded_unix_s: Mapping[str, int]) -> None:
        # Not servable would mean that another host should load them.
        self.models = tuple(replace(info, status=ModelStatus.RECOVERING, servable=None) for info in models)
        self.loaded_unix_s = loaded_unix_s
