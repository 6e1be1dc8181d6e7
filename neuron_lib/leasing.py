"""One reply together with the lease that keeps its model from being unloaded under it. Knows one `Residence`."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from neuron_lib.errors import EngineDead, ShuttingDown
from neuron_lib.harness import LoadedModel, Reply
from neuron_lib.residence import Residence
from neuron_lib.types import GenerationEvent, Task, Usage

__all__ = ("LeasedGeneration",)


class LeasedGeneration:
    """See `neuron_lib.harness.Reply`.

    `find` returns the serving model, or raises why there is none; `is_stopping` says whether the registry admits no
    more.
    """

    def __init__(
        self,
        task: Task,
        *,
        find: Callable[[str], Awaitable[tuple[Residence, LoadedModel]]],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._task = task
        self._find = find
        self._is_stopping = is_stopping
        self._residence: Residence | None = None
        self._inner: Reply | None = None

    @property
    def retried(self) -> bool:
        return self._inner is not None and self._inner.retried

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=0, completion_tokens=0) if self._inner is None else self._inner.usage

    async def __aenter__(self) -> Self:
        residence, model = await self._find(self._task.model_id)
        residence.lease()
        try:
            self._inner = await residence.enter(model.run(self._task))
        except BaseException:
            residence.release()
            raise
        self._residence = residence
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._inner is not None  # entered
        assert self._residence is not None
        try:
            await self._inner.__aexit__(exc_type, exc, tb)
        finally:
            self._residence.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        if self._inner is None:
            raise RuntimeError("a Generation must be entered with `async with` before it is read")
        try:
            return await self._inner.__anext__()
        except EngineDead as error:
            assert self._residence is not None  # entered
            if self._is_stopping() and self._residence.leave.is_set():
                raise ShuttingDown from error  # its time to come to an end was over
            raise
