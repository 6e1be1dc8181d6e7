"""A reply, the lease that keeps its model from being unloaded under the reply, and the account of the reply's end."""

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from neuron_lib.errors import EngineDead, NeuronError, ShuttingDown
from neuron_lib.harness import ForwardingReply, Reply
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.reply_readers import log_reply
from neuron_lib.shown import one_word
from neuron_lib.types import (
    Detokenize,
    EndedReply,
    EventBeforeEnd,
    Finished,
    GenerationEvent,
    Principal,
    ReplyOutcome,
    Started,
    Task,
    Tokenize,
    Usage,
    is_whole,
)

__all__ = ("LeasedReply", "OnRefusal")

logger: FieldLogger = get_logger(__name__)


class OnRefusal(Protocol):
    """Is told that a request was refused before its reply began. Must not wait or raise."""

    def __call__(self, error: NeuronError, *, model_id: str, request_id: str, principal: Principal | None) -> None: ...


class LeasedReply:
    """See `neuron_lib.harness.Reply`. Lives for one `async with` block, in the task of the caller."""

    def __init__(
        self,
        task: Task,
        *,
        find: Callable[[str], Awaitable[HostedModel]],
        is_stopping: Callable[[], bool],
        on_end: Callable[[EndedReply], None],
        on_refusal: OnRefusal,
        on_account: Callable[[EndedReply], None] = log_reply,
        clock: Callable[[], float],
    ) -> None:
        """`find` returns the serving model of an id, or raises the refusal.

        `is_stopping` says whether the registry admits no more requests. `on_account` and then `on_end` are called once,
        at the end of a reply that was entered. `on_refusal` is called if entering raises. `clock` gives seconds.
        """
        self._task = task
        self._find = find
        self._is_stopping = is_stopping
        self._on_end = on_end
        self._on_refusal = on_refusal
        self._on_account = on_account
        self._clock = clock
        self._hosted: HostedModel | None = None  # None until the reply is entered
        self._inner: Reply | None = None  # None until the reply is entered
        self._asked_s = 0.0
        self._admitted_s = 0.0
        self._first_event_s: float | None = None
        self._finished: Finished | None = None
        self._error: str | None = None  # the code of the error that reading the reply raised

    @property
    def retried(self) -> bool:
        return self._inner is not None and self._inner.retried

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=0, completion_tokens=0) if self._inner is None else self._inner.usage

    async def __aenter__(self) -> Self:
        self._asked_s = self._clock()
        task = self._task
        try:
            hosted = await self._find(task.model_id)
            self._inner = await hosted.leases.enter(hosted.loaded.run(task))
        except NeuronError as error:
            self._on_refusal(error, model_id=task.model_id, request_id=task.request_id, principal=task.principal)
            raise
        self._hosted = hosted
        self._admitted_s = self._clock()
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
            self._tell(self._hosted)

    def forward(self, take: Callable[[EventBeforeEnd], bool]) -> None:
        """See `ForwardingReply`. Does nothing if the backend's reply cannot do this."""
        if isinstance(self._inner, ForwardingReply):
            self._inner.forward(partial(self._pass_on, take))

    def _pass_on(self, take: Callable[[EventBeforeEnd], bool], event: EventBeforeEnd) -> bool:
        if self._first_event_s is None:
            self._first_event_s = self._clock()
        return take(event)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        if self._inner is None:
            raise RuntimeError("a Reply must be entered with `async with` before it is read")
        try:
            event = await self._inner.__anext__()
        except StopAsyncIteration:
            raise
        except Exception as error:
            told = ShuttingDown() if isinstance(error, EngineDead) and self._ends_with_the_host() else error
            self._error = told.code if isinstance(told, NeuronError) else type(told).__name__
            if told is error:
                raise
            raise told from error
        if isinstance(event, Finished):
            self._finished = event
        elif self._first_event_s is None and not isinstance(event, Started):
            self._first_event_s = self._clock()
        return event

    def _ends_with_the_host(self) -> bool:
        """Whether the model was ended because the host stops, and has not died by itself."""
        assert self._hosted is not None  # entered
        return self._is_stopping() and self._hosted.is_leaving

    def _tell(self, hosted: HostedModel) -> None:
        ended = self._account(hosted)
        hosted.rates.take(ended)
        self._call(self._on_account, ended, name="on_account")
        self._call(self._on_end, ended, name="on_reply")

    def _call(self, take: Callable[[EndedReply], None], ended: EndedReply, *, name: str) -> None:
        try:
            take(ended)
        except Exception:  # a failure of a callback is no failure of the reply
            fields = {"model_id": ended.model_id, "request_id": one_word(ended.request_id)}
            logger.exception("bug in the callback `%s`", name, extra=fields)

    def _account(self, hosted: HostedModel) -> EndedReply:
        if self._finished is not None:
            outcome = ReplyOutcome.FINISHED
        else:
            outcome = ReplyOutcome.ABANDONED if self._error is None else ReplyOutcome.FAILED
        return EndedReply(
            model_id=hosted.model_id,
            outcome=outcome,
            error=self._error if outcome is ReplyOutcome.FAILED else None,
            finish_reasons=() if self._finished is None else self._finished.reasons,
            usage=self.usage,
            retried=self.retried,
            whole=is_whole(self._task),
            principal=self._task.principal,
            queue_s=self._admitted_s - self._asked_s,
            first_event_s=None if self._first_event_s is None else self._first_event_s - self._asked_s,
            total_s=self._clock() - self._asked_s,
            request_id=self._task.request_id,
            had_seat=not isinstance(self._task, Tokenize | Detokenize),
        )
