"""Submitted requests on their way to the line: rendered, tokenized, bound to a grammar.

Each of these is a lane with a thread of its own, so that no prompt holds up those of another lane. The main thread
renders, because only the main thread can be interrupted, and tokenizes short prompts. A second thread tokenizes long
prompts. A third one compiles grammars, which may take half a second each.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from neuron_lib.engine.binder import Bond
from neuron_lib.engine.interruption import GaveWay
from neuron_lib.engine.lanes import Lane
from neuron_lib.engine.line import Request
from neuron_lib.engine.prepare import PreparedPrompt, Preparer
from neuron_lib.engine.prompt_writer import Prompt
from neuron_lib.engine.protocol import (
    Cancelled,
    DetokenizeTask,
    Prepared,
    ProtocolError,
    Refused,
    Report,
    Submit,
    Taken,
    TokenizeTask,
    Work,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import Overloaded, OverloadReason, RequestRejected, cause_chain
from neuron_lib.llama.grammar import Calls, GrammarCompiler
from neuron_lib.types import Grammar

__all__ = ("Intake", "message_of")

_LONG_CHARS: Final = 1 << 15
"""Prompts that take longer than so many characters of prose are tokenized by the second thread. These take 20 ms."""
_MOST_GRAMMARS: Final = 8
"""Grammars that may wait to be compiled. A hostile grammar takes 0.4 s."""
_BUSY_RETRY_S: Final = 4
"""After that long a refused request may come again: eight grammars of at most half a second each are done by then."""
_LONGEST_MESSAGE: Final = 4096

_PATIENCE_S: Final = (0.1, 0.3, 0.6)
"""How long smaller prompts wait while one is rendered, for each of its tries. Rendering may take 2 s, see `prepare`."""
_FAR_BEHIND: Final = 1 << 40
"""The size of a prompt that has given way, so that every other prompt goes first."""

Job = TypeVar("Job")


@dataclass(slots=True, frozen=True)
class _Job:
    """A request to be rendered, after `tries` renderings that gave way to others.

    `size` decides the order of rendering. `arrived_s` is the time of arrival by the engine's clock.
    """

    submit: Submit
    size: int
    arrived_s: float
    tries: int = 0


@dataclass(slots=True, frozen=True)
class _ToCompile:
    """A request whose grammar is to be compiled."""

    job: _Job
    bond: Bond
    wanted: Grammar | Calls
    prompts: list[PreparedPrompt]


class Intake:
    """Prepares requests and hands them on to the line. `submit` and `cancel` are for any thread.

    `send` gives a report to the daemon. The daemon is told of every change of what the threads work on, before they
    begin to. `clock` is the clock of `Request.arrived_s`, in seconds.
    """

    def __init__(self, send: Callable[[Report], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send: Final = send
        self._clock: Final = clock
        self._preparer: Preparer | None = None
        self._hand_on: Callable[[Request], None] = lambda _request: None
        self._compiler: GrammarCompiler | None = None
        changed = self._changed = Condition()  # its lock guards all that follows
        self._chats: Final = Lane[_Job]("a prompt", changed)
        self._long: Final = Lane[tuple[_Job, tuple[Prompt, ...]]]("a long prompt", changed)
        self._bound: Final = Lane[_ToCompile]("a grammar", changed)
        self._lanes: Final = (self._chats, self._long, self._bound)
        self._wanted: set[int] = set()  # neither handed on nor refused nor cancelled
        self._told: frozenset[int] = frozenset()  # what the daemon knows to be worked on

    def open(
        self,
        preparer: Preparer,
        *,
        hand_on: Callable[[Request], None],
        compiler: GrammarCompiler | None = None,
    ) -> None:
        """The model is loaded; requests may come. `hand_on` takes each request that is prepared, without waiting.

        `compiler` is that of `compile_forever`, None where no grammar is compiled.
        """
        self._preparer, self._hand_on, self._compiler = preparer, hand_on, compiler

    @property
    def work(self) -> tuple[Work, ...]:
        """How far the threads are."""
        return tuple(Work(lane.name, lane.done, lane.waiting) for lane in self._lanes)

    def submit(self, submit: Submit) -> None:
        """Have a request prepared. Reports tell what becomes of it."""
        if self._preparer is None:
            raise ProtocolError("a request arrived before the model was ready")
        job = _Job(submit, len(msgspec.msgpack.encode(submit)), self._clock())
        with self._changed:
            self._wanted.add(submit.request)
            self._chats.put(submit.request, job, size=job.size, caller=submit.class_.principal)

    def cancel(self, request: int) -> bool:
        """Give a request up; False if it is not here. A thread that works on it reports when it has left it."""
        with self._changed:
            is_known = request in self._wanted or any(lane.current == request for lane in self._lanes)
            self._wanted.discard(request)
            was_waiting = any(lane.drop(request) for lane in self._lanes)
        if was_waiting:
            self._send(Cancelled(request))
        return is_known

    def render_forever(self) -> NoReturn:
        """The main thread's life."""
        while True:
            job = self._next(self._chats)
            try:
                prompts = self._opened.write(job.submit.task, gives_way=partial(self._gives_way, job))
            except GaveWay:
                self._put_back(job)
                continue
            except RequestRejected as error:
                self._refuse(self._chats, job, error)
                continue
            effort = self._opened.effort(prompts)
            if effort > _LONG_CHARS:
                self._pass_on(self._chats, job, self._long, (job, prompts), size=effort)
            else:
                self._read(self._chats, job, prompts)

    def read_forever(self) -> NoReturn:
        """The life of the thread that tokenizes long prompts."""
        while True:
            job, prompts = self._next(self._long)
            self._read(self._long, job, prompts)

    def compile_forever(self, compiler: GrammarCompiler) -> NoReturn:
        """The life of the thread that compiles grammars, which needs a stack of 8 MiB."""
        while True:
            bound = self._next(self._bound)
            try:
                rules = compiler.compile(bound.wanted)
            except RequestRejected as error:
                self._refuse(self._bound, bound.job, error)
            else:
                begin = bound.bond.binding(rules)
                self._finish(self._bound, bound.job, [replace(prompt, begin=begin) for prompt in bound.prompts])

    @property
    def _opened(self) -> Preparer:
        assert self._preparer is not None  # no request is taken in before
        return self._preparer

    def _gives_way(self, job: _Job, took_s: float) -> bool:
        """Whether `job`, which has been rendered for `took_s` seconds, is to be put back for a smaller one."""
        if took_s < _PATIENCE_S[job.tries]:
            return False
        with self._changed:
            smallest = self._chats.smallest
        return smallest is not None and smallest < job.size

    def _put_back(self, job: _Job) -> None:
        """Render `job` once more after the smaller ones, unless that was tried too often."""
        tries = job.tries + 1
        if tries < len(_PATIENCE_S):
            later = replace(job, size=_FAR_BEHIND, tries=tries)
            self._pass_on(self._chats, job, self._chats, later, size=later.size)
        else:
            reason = "others come first: the prompt takes too long to be rendered"
            self._refuse(self._chats, job, _busy(reason))

    def _read(self, lane: Lane[Any], job: _Job, written: tuple[Prompt, ...]) -> None:
        submit = job.submit
        if isinstance(submit.task, TokenizeTask | DetokenizeTask):
            self._answer(lane, job, submit.task, written)
            return
        limit = self._opened.limit(submit)
        try:
            prompts = [self._opened.read(prompt, limit=limit) for prompt in written]
        except RequestRejected as error:
            self._refuse(lane, job, error)
            return
        bond = prompts[0].bond
        if bond is None or bond.wanted is None:
            self._finish(lane, job, prompts)
        elif self._has_room_for(bond.wanted):
            bound = _ToCompile(job, bond, bond.wanted, prompts)
            self._pass_on(lane, job, self._bound, bound, size=1)
        else:
            reason = f"{_MOST_GRAMMARS} grammars wait to be compiled already"
            self._refuse(lane, job, _busy(reason))

    def _has_room_for(self, wanted: Grammar | Calls) -> bool:
        """Whether a grammar may wait to be compiled. One that is known, or that somebody waits for, takes no time."""
        if self._is_known(wanted):
            return True
        with self._changed:
            waiting = {bound.wanted for bound in self._bound.jobs if not self._is_known(bound.wanted)}
        return wanted in waiting or len(waiting) < _MOST_GRAMMARS

    def _is_known(self, wanted: Grammar | Calls) -> bool:
        return self._compiler is not None and self._compiler.knows(wanted)

    def _answer(
        self, lane: Lane[Any], job: _Job, task: TokenizeTask | DetokenizeTask, written: tuple[Prompt, ...]
    ) -> None:
        """Answer a request that needs nothing computed, unless it was cancelled meanwhile."""
        request = job.submit.request
        answer: Report
        try:
            if isinstance(task, TokenizeTask):
                (prompt,) = written
                answer = self._opened.tokens_of(request, task, prompt)
            else:
                answer = self._opened.text_of(request, task)
        except RequestRejected as error:
            self._refuse(lane, job, error)
            return
        with self._changed:
            self._send(answer if self._leave(lane, request) else Cancelled(request))

    def _next(self, lane: Lane[Job]) -> Job:
        with self._changed:
            if not lane.waiting:
                self._tell()
            _, job = lane.take()
            self._tell()
            return job

    def _pass_on(self, lane: Lane[Any], job: _Job, other: Lane[Job], next_job: Job, *, size: int) -> None:
        """Another lane goes on with what `lane` has done."""
        request = job.submit.request
        with self._changed:
            lane.leave()
            is_wanted = request in self._wanted
            if is_wanted:
                other.put(request, next_job, size=size, caller=job.submit.class_.principal)
        if not is_wanted:
            self._send(Cancelled(request))

    def _finish(self, lane: Lane[Any], job: _Job, prompts: list[PreparedPrompt]) -> None:
        """Hand a prepared request on to the line, unless it was cancelled meanwhile."""
        submit = job.submit
        try:
            request = self._opened.request(submit, prompts, arrived_s=job.arrived_s)
        except RequestRejected as error:
            self._refuse(lane, job, error)
            return
        prepared = Prepared(
            request=submit.request,
            prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
            in_reasoning=prompts[-1].in_reasoning,
            echo=self._opened.echo(submit.task),
            cells=request.cells,
        )
        # All of it with the lock held: a cancel finds the request either here or in the line, and `Began` comes later.
        with self._changed:
            report = prepared if self._leave(lane, submit.request) else Cancelled(submit.request)
            self._send(report)
            if report is prepared:
                self._hand_on(request)

    def _refuse(self, lane: Lane[Any], job: _Job, error: RequestRejected) -> None:
        request = job.submit.request
        with self._changed:
            is_wanted = self._leave(lane, request)
        if not is_wanted:
            self._send(Cancelled(request))
            return
        self._send(Refused(request, msgspec.structs.replace(to_frame(error), message=message_of(error))))

    def _leave(self, lane: Lane[Any], request: int) -> bool:
        """Be done with a request, with the lock held; False if nobody wants it any more."""
        lane.leave()
        is_wanted = request in self._wanted
        self._wanted.discard(request)
        return is_wanted

    def _tell(self) -> None:
        """Say what is worked on, unless the daemon knows. Called with the lock held, so that the last word is true."""
        current = frozenset(lane.current for lane in self._lanes if lane.current is not None)
        if current != self._told & (self._wanted | current):
            self._send(Taken(tuple(sorted(current))))
            self._told = current


def _busy(reason: str) -> Overloaded:
    return Overloaded(reason, reason=OverloadReason.QUEUE_FULL, retry_after_s=_BUSY_RETRY_S)


def message_of(error: BaseException) -> str:
    """What happened, fit for a frame even where a hostile template has chosen the words."""
    return cause_chain(error)[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
