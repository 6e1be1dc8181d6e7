"""A reply, and the lease that keeps its model from being unloaded under the reply."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from neuron_lib.errors import EngineDead, ShuttingDown
from neuron_lib.harness import Generation
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.types import ChatRequest, GenerationEvent, Usage

__all__ = ("LeasedReply",)


class LeasedReply:
    """See `neuron_lib.harness.Generation`. Lives for one `async with` block, in the task of the caller.

    `find` returns the serving model of an id, or raises why none serves. `is_stopping` says whether the registry
    admits no more.
    """

    def __init__(
        self,
        request: ChatRequest,
        *,
        find: Callable[[str], Awaitable[HostedModel]],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._request = request
        self._find = find
        self._is_stopping = is_stopping
        self._hosted: HostedModel | None = None  # None until the reply is entered
        self._inner: Generation | None = None  # None until the reply is entered

    @property
    def retried(self) -> bool:
        return self._inner is not None and self._inner.retried

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=0, completion_tokens=0) if self._inner is None else self._inner.usage

    async def __aenter__(self) -> Self:
        hosted = await self._find(self._request.model_id)
        self._inner = await hosted.leases.enter(hosted.loaded.chat(self._request))
        self._hosted = hosted
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._inner is not None  # entered
        assert self._hosted is not None
        try:
            await self._inner.__aexit__(exc_type, exc, tb)
        finally:
            self._hosted.leases.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        if self._inner is None:
            raise RuntimeError("a Generation must be entered with `async with` before it is read")
        try:
            return await self._inner.__anext__()
        except EngineDead as error:
            assert self._hosted is not None  # entered
            if self._is_stopping() and self._hosted.phase.is_leaving:
                raise ShuttingDown from error  # the host stopped before this reply came to its end
            raise
