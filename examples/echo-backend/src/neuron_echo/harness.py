"""The harness, its models and their replies. They keep the rules of `neuron_lib.harness`, and compute nothing."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib.errors import EngineDead, InvalidRequest, LoadFailed, Overloaded, OverloadReason, RequestRejected
from neuron_lib.harness import ProgressReporter
from neuron_lib.modality import require_able
from neuron_lib.types import (
    Chat,
    Finished,
    FinishReason,
    GenerationEvent,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    Started,
    Task,
    TextDelta,
    Usage,
)

__all__ = ("EchoHarness",)

_CAPABILITIES = ("text",)
_LONGEST_WAIT_S = 30.0


class EchoHarness:
    """See `neuron_lib.harness.Harness`. Loads every model of the organisation `echo`."""

    name = "echo"

    def __init__(self, *, seats: int = 4, max_queue_depth: int = 32) -> None:
        self._seats = seats
        self._max_queue_depth = max_queue_depth

    @asynccontextmanager
    async def open(self, _spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator["EchoModel"]:
        """Entering is the load, and leaving the unload."""
        if not model_id.startswith("echo/"):
            raise LoadFailed(f"there is no echo of {model_id!r}: load a model such as echo/parrot", model_id=model_id)
        for step in range(5):
            report(LoadProgress(stage=LoadStage.LOADING, fraction=step / 4))
            await checkpoint()
        model = EchoModel(model_id, seats=self._seats, max_queue_depth=self._max_queue_depth)
        try:
            yield model
        finally:
            model.end()

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        return _CAPABILITIES if model_id.startswith("echo/") else None


class EchoModel:
    """See `neuron_lib.harness.LoadedModel`."""

    def __init__(self, model_id: str, *, seats: int, max_queue_depth: int) -> None:
        self.model_id = model_id
        self.limiter = anyio.CapacityLimiter(seats)
        self.max_queue_depth = max_queue_depth
        self.refusal: Callable[[], RequestRejected] | None = None  # None as long as requests are admitted
        self.has_ended = False

    def info(self) -> ModelInfo:
        return ModelInfo(
            id=self.model_id,
            harness=EchoHarness.name,
            status=ModelStatus.LOADED,
            devices=(),
            capabilities=_CAPABILITIES,
        )

    def load(self) -> ModelLoad:
        return ModelLoad(
            id=self.model_id,
            in_flight=self.limiter.borrowed_tokens,
            queue_depth=self.limiter.statistics().tasks_waiting,
            max_in_flight=int(self.limiter.total_tokens),
            max_queue_depth=self.max_queue_depth,
        )

    def run(self, task: Task) -> "EchoReply":
        return EchoReply(self, task)

    def close_admission(self, refusal: Callable[[], RequestRejected]) -> None:
        self.refusal = refusal

    async def wait_lost(self) -> str:
        """An echo never dies by itself."""
        await anyio.sleep_forever()
        raise AssertionError  # never reached

    def end(self) -> None:
        """The model is unloaded. Its replies raise `EngineDead` when they are read further."""
        self.has_ended = True


class EchoReply:
    """See `neuron_lib.harness.Reply`. Gives out the last message of a chat, word by word."""

    retried = False

    def __init__(self, model: EchoModel, task: Task) -> None:
        self._model = model
        self._task = task
        self._events: Iterator[GenerationEvent] = iter(())
        self.usage = Usage(prompt_tokens=0, completion_tokens=0)

    async def __aenter__(self) -> Self:
        """Refuse what cannot be done, then wait for a seat."""
        model, task = self._model, self._task
        require_able(task, model.model_id, _CAPABILITIES)
        words, most = _words(task), task.max_tokens if isinstance(task, Chat) else None
        if model.load().queue_depth >= model.max_queue_depth:
            text = f"too many requests wait for model {model.model_id!r}"
            raise Overloaded(text, reason=OverloadReason.QUEUE_FULL, retry_after_s=1, model_id=model.model_id)
        self._raise_if_closed()
        with anyio.move_on_after(_LONGEST_WAIT_S) as patience:
            await model.limiter.acquire_on_behalf_of(self)
        if patience.cancelled_caught:
            text = f"no seat of model {model.model_id!r} became free within {_LONGEST_WAIT_S:g} s"
            raise Overloaded(text, reason=OverloadReason.WAIT_EXPIRED, retry_after_s=1, model_id=model.model_id)
        try:
            self._raise_if_closed()
        except RequestRejected:
            model.limiter.release_on_behalf_of(self)
            raise
        said = words[:most]
        self.usage = Usage(prompt_tokens=len(words), completion_tokens=len(said))
        reason = FinishReason.STOP if len(said) == len(words) else FinishReason.LENGTH
        events: list[GenerationEvent] = [Started(prompt_tokens=len(words))]
        events += [TextDelta(word if first else f" {word}") for word, first in zip(said, _first(), strict=False)]
        self._events = iter([*events, Finished(reasons=(reason,), usage=self.usage)])
        return self

    def _raise_if_closed(self) -> None:
        if self._model.refusal is not None:
            raise self._model.refusal()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._model.limiter.release_on_behalf_of(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        await checkpoint()
        if self._model.has_ended:
            raise EngineDead(self._model.model_id, "the model was unloaded")
        try:
            return next(self._events)
        except StopIteration:
            raise StopAsyncIteration from None


def _words(task: Task) -> list[str]:
    """The words of the last message. Raises `InvalidRequest` for what an echo cannot do."""
    if not isinstance(task, Chat):
        raise InvalidRequest("an echo only chats", param="model")
    for name, is_asked in (("n", task.choices != 1), ("response_format", task.grammar), ("tools", task.tools)):
        if is_asked:
            raise InvalidRequest(f"{name}: an echo does not support this", param=name)
    content = [*task.messages][-1].get("content")
    return content.split(" ") if isinstance(content, str) else []


def _first() -> Iterator[bool]:
    """True once, and False from then on."""
    return chain([True], repeat(False))
