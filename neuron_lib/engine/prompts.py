"""The prompts of one engine from their arrival to their start: rendered, tokenized, bound to a grammar, kept.

Each of these is a lane with a thread of its own, so that none holds up another one's prompts: the main thread renders,
because only it can be interrupted, and tokenizes what is short; a second one tokenizes what is long; a third compiles
grammars, which may take half a second each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from neuron_lib.engine.interruption import GaveWay
from neuron_lib.engine.lanes import Lane
from neuron_lib.engine.prepare import PreparedPrompt, Preparer
from neuron_lib.engine.prompt_writer import Prompt
from neuron_lib.engine.protocol import (
    Cancelled,
    Prepare,
    Prepared,
    ProtocolError,
    Refused,
    Report,
    Taken,
    Work,
)
from neuron_lib.errors import InvalidRequest, Overloaded, OverloadReason, RequestRejected, cause_chain
from neuron_lib.llama.grammar import GrammarCompiler
from neuron_lib.types import Grammar

__all__ = ("Prompts", "message_of")

_LONG_CHARS: Final = 1 << 15
"""Rendered prompts that take longer than so many characters of prose are tokenized aside. These take 20 ms."""
_MOST_GRAMMARS: Final = 8
"""Requests whose grammar may wait to be compiled. A hostile one takes 0.4 s."""
_PROMPT_END_CHARS: Final = 200
_LONGEST_MESSAGE: Final = 4096

_PATIENCE_S: Final = (0.1, 0.3, 0.6)
"""How long smaller prompts wait while one is rendered, for each of its tries. Rendering may take 2 s, see `prepare`."""
_FAR_BEHIND: Final = 1 << 40
"""The size of a prompt that has given way: each that has not goes first."""

Job = TypeVar("Job")


@dataclass(slots=True, frozen=True)
class _Chat:
    """A chat to be rendered, after `tries` that gave way to others."""

    chat: Prepare
    size: int
    tries: int = 0


@dataclass(slots=True, frozen=True)
class _Bound:
    """A prompt whose reply must follow a grammar."""

    grammar: Grammar
    prompt: PreparedPrompt


class Prompts:
    """Which requests are prepared, and what came of it. `prepare`, `cancel` and `take` are for any thread.

    `send` gives a report to the daemon; it is told of every change of what the threads work on.
    """

    def __init__(self, send: Callable[[Report], None]) -> None:
        self._send: Final = send
        self._preparer: Preparer | None = None
        changed = self._changed = Condition()  # its lock guards all that follows
        self._chats: Final = Lane[_Chat]("a prompt", changed)
        self._long: Final = Lane[tuple[Prepare, Prompt]]("a long prompt", changed)
        self._bound: Final = Lane[_Bound]("a grammar", changed)
        self._lanes: Final = (self._chats, self._long, self._bound)
        self._wanted: set[int] = set()  # neither ready nor refused nor cancelled
        self._ready: dict[int, PreparedPrompt] = {}
        self._told: frozenset[int] = frozenset()  # what the daemon knows to be worked on

    def open(self, preparer: Preparer) -> None:
        """The model is loaded; prompts may come."""
        self._preparer = preparer

    @property
    def work(self) -> tuple[Work, ...]:
        """How far the threads are."""
        return tuple(Work(lane.name, lane.done, lane.waiting) for lane in self._lanes)

    def prepare(self, chat: Prepare) -> None:
        """Have a prompt prepared. The answer is a report."""
        if self._preparer is None:
            raise ProtocolError("a prompt arrived before the model was ready")
        size = len(msgspec.msgpack.encode(chat))
        with self._changed:
            self._wanted.add(chat.request)
            self._chats.put(chat.request, _Chat(chat, size), size=size)

    def take(self, request: int) -> PreparedPrompt | None:
        """What was prepared, once."""
        with self._changed:
            return self._ready.pop(request, None)

    def cancel(self, request: int) -> bool:
        """Forget a request; False if it is none of these. A thread that works on it says when it has left it."""
        with self._changed:
            if self._ready.pop(request, None) is not None:
                return True
            is_known = request in self._wanted or any(lane.current == request for lane in self._lanes)
            self._wanted.discard(request)
            was_waiting = any(lane.drop(request) for lane in self._lanes)
        if was_waiting:
            self._send(Cancelled(request))
        return is_known

    def render_forever(self) -> NoReturn:
        """The main thread's life."""
        while True:
            request, job = self._next(self._chats)
            chat = job.chat
            try:
                prompt = self._opened.write(chat.read(), gives_way=partial(self._gives_way, job))
            except GaveWay:
                self._put_back(job)
                continue
            except RequestRejected as error:
                self._refuse(self._chats, request, error)
                continue
            effort = self._opened.effort(prompt.text)
            if effort > _LONG_CHARS:
                self._pass_on(self._chats, request, self._long, (chat, prompt), size=effort)
            else:
                self._read(self._chats, chat, prompt)

    def read_forever(self) -> NoReturn:
        """The life of the thread that tokenizes long prompts."""
        while True:
            _, (chat, prompt) = self._next(self._long)
            self._read(self._long, chat, prompt)

    def compile_forever(self, compiler: GrammarCompiler) -> NoReturn:
        """The life of the thread that compiles grammars, which needs a stack of 8 MiB."""
        while True:
            request, bound = self._next(self._bound)
            try:
                constraint = compiler.compile(bound.grammar)
            except RequestRejected as error:
                self._refuse(self._bound, request, error)
            else:
                self._offer(self._bound, request, replace(bound.prompt, constraint=constraint))

    @property
    def _opened(self) -> Preparer:
        assert self._preparer is not None  # no prompt is taken in before
        return self._preparer

    def _gives_way(self, job: _Chat, took_s: float) -> bool:
        """Whether `job`, which has been rendered for `took_s` seconds, is to be put back for a smaller one."""
        if took_s < _PATIENCE_S[job.tries]:
            return False
        with self._changed:
            smallest = self._chats.smallest
        return smallest is not None and smallest < job.size

    def _put_back(self, job: _Chat) -> None:
        """Render `job` once more when what is smaller is rendered, unless that was tried too often."""
        request, tries = job.chat.request, job.tries + 1
        if tries < len(_PATIENCE_S):
            later = _Chat(job.chat, _FAR_BEHIND, tries)
            self._pass_on(self._chats, request, self._chats, later, size=later.size)
        else:
            reason = "others come first: the prompt takes too long to be rendered"
            self._refuse(self._chats, request, Overloaded(reason, reason=OverloadReason.QUEUE_FULL, retry_after_s=5))

    def _read(self, lane: Lane[Any], chat: Prepare, written: Prompt) -> None:
        try:
            prompt = self._opened.read(written)
        except RequestRejected as error:
            self._refuse(lane, chat.request, error)
            return
        if chat.grammar is None or prompt.too_many:
            self._offer(lane, chat.request, prompt)
        elif self._bound.waiting > _MOST_GRAMMARS:
            reason = f"{_MOST_GRAMMARS} grammars wait to be compiled already"
            self._refuse(lane, chat.request, Overloaded(reason, reason=OverloadReason.QUEUE_FULL, retry_after_s=1))
        else:
            self._pass_on(lane, chat.request, self._bound, _Bound(chat.grammar, prompt), size=0)

    def _next(self, lane: Lane[Job]) -> tuple[int, Job]:
        with self._changed:
            if not lane.waiting:
                self._tell()
            request, job = lane.take()
            self._tell()
            return request, job

    def _pass_on(self, lane: Lane[Any], request: int, other: Lane[Job], job: Job, *, size: int) -> None:
        """What `lane` has done goes on in another one."""
        with self._changed:
            lane.leave()
            is_wanted = request in self._wanted
            if is_wanted:
                other.put(request, job, size=size)
        if not is_wanted:
            self._send(Cancelled(request))

    def _offer(self, lane: Lane[Any], request: int, prompt: PreparedPrompt) -> None:
        """Keep a prompt for its start, and say that it is there, unless it was cancelled meanwhile."""
        if not self._leave(lane, request, prompt):
            self._send(Cancelled(request))
            return
        self._send(
            Prepared(
                request=request,
                prompt_tokens=prompt.too_many or len(prompt.tokens),
                prompt_end=prompt.text[-_PROMPT_END_CHARS:],
            )
        )

    def _refuse(self, lane: Lane[Any], request: int, error: RequestRejected) -> None:
        if not self._leave(lane, request, None):
            self._send(Cancelled(request))
            return
        param = error.param if isinstance(error, InvalidRequest) else None
        self._send(Refused(request=request, code=error.code, message=message_of(error), param=param))

    def _leave(self, lane: Lane[Any], request: int, prompt: PreparedPrompt | None) -> bool:
        """Be done with a request, and keep its prompt; False if nobody wants it any more."""
        with self._changed:
            lane.leave()
            is_wanted = request in self._wanted
            self._wanted.discard(request)
            if is_wanted and prompt is not None:
                self._ready[request] = prompt
            return is_wanted

    def _tell(self) -> None:
        """Say what is worked on, unless the daemon knows. Called with the lock held, so that the last word is true."""
        current = frozenset(lane.current for lane in self._lanes if lane.current is not None)
        if current != self._told & (self._wanted | current):
            self._send(Taken(tuple(sorted(current))))
            self._told = current


def message_of(error: BaseException) -> str:
    """What happened, fit for a frame even where a hostile template has chosen the words."""
    return cause_chain(error)[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
