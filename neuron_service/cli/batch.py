"""`neuron batch`: the requests of a file, asked several at a time, and their answers in another file.

The output is all that a job remembers: what has an outcome there is not asked again. Only the thread of the command
writes to it, whole lines at a time.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPMessage
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import BinaryIO, Final

import click
from msgspec import Struct

from neuron_service.cli.batch_lines import (
    OUTCOME_ID,
    BatchRequest,
    LineProblem,
    outcome_line,
    parse_outcomes,
    parse_request,
    require_unique,
)
from neuron_service.cli.screen import counting, print_json, shown
from neuron_service.cli.terminal import INTERRUPTED, complain
from neuron_service.client.client import Client, Exchange
from neuron_service.client.problem import DaemonProblem

__all__ = ("run_batch",)

_LONGEST_LINE: Final = 32 << 20
_ANSWER_LIMIT_S: Final = 3600.0
"""How long one answer is waited for. It waits for a seat, too."""
_PATIENCE_S: Final = 1800.0
"""How long one request is sent again while the daemon is busy or away, before the job gives up."""
_AGAIN_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 120.0
_BUSY: Final = frozenset({429, 502, 503, 504})
_NOT_LET_IN: Final = frozenset({401, 403})
_USUAL_STREAMS: Final = 8
_LOOK_S: Final = 0.2


class _Answered(Struct, frozen=True):
    request: BatchRequest
    answer: Exchange | DaemonProblem


def run_batch(
    client: Client, source: Path, target: Path, *, model: str | None, streams: int | None, as_json: bool
) -> int:
    """Ask what `source` asks and `target` has no outcome of. Returns the exit status.

    `streams` is how many requests run at a time; None takes the number of seats of the service. `model` takes the place
    of the models that the lines name.
    """
    try:
        requests = require_unique(_read_requests(source, model=model))
        with _output(target) as output:
            done, whole = _read_outcomes(output, target, requests)
            output.truncate(whole)
            output.seek(whole)
            left = [request for id_, request in requests.items() if id_ not in done]
            job = _Job(client, left, already=len(done))
            seats = _seats(client) if left else 0
            status = job.run(output, streams=streams or seats)
    except LineProblem as problem:
        complain(f"{problem}")
        return os.EX_DATAERR
    except OSError as error:
        complain(f"{error.filename or target}: {error.strerror or error}")
        return os.EX_NOINPUT if error.filename == str(source) else os.EX_IOERR
    _say(job, target, total=len(requests), as_json=as_json)
    return status


class _Job:
    """The requests that are left, and what has become of them so far."""

    def __init__(self, client: Client, left: Sequence[BatchRequest], *, already: int) -> None:
        self._client = client
        self._left = left
        self.already = already
        self.succeeded = 0
        self.refused = 0
        self._waits = Event()

    @property
    def answered(self) -> int:
        """How many requests got an answer now."""
        return self.succeeded + self.refused

    def run(self, output: BinaryIO, *, streams: int) -> int:
        """Ask, and write each answer as it comes. Returns the exit status."""
        todo, answers, is_over = SimpleQueue[BatchRequest](), SimpleQueue[_Answered](), Event()
        for request in self._left:
            todo.put(request)

        def work() -> None:
            with contextlib.suppress(Empty):
                while not is_over.is_set():
                    request = todo.get_nowait()
                    answer = _ask(self._client, request, is_over, self._say_once)
                    if isinstance(answer, DaemonProblem):  # ends the job, so no thread may take another request
                        is_over.set()
                    answers.put(_Answered(request, answer))

        # Daemons, because an answer may take an hour, and an interrupt must not wait for it.
        for number in range(min(streams, len(self._left))):
            Thread(target=work, name=f"batch {number}", daemon=True).start()
        try:
            with counting(len(self._left)) as advance:
                for _ in self._left:
                    answered = _next(answers)
                    if isinstance(answered.answer, DaemonProblem):
                        raise answered.answer
                    self._take(output, answered.request, answered.answer)
                    advance()
        except DaemonProblem as problem:
            complain(f"{problem}. {self._written}; the same command goes on with the rest")
            return problem.exit_status
        except KeyboardInterrupt:
            complain(f"interrupted; {self._written}, and the same command goes on with the rest")
            return INTERRUPTED
        finally:
            is_over.set()
        return 1 if self.refused else 0

    def _take(self, output: BinaryIO, request: BatchRequest, answer: Exchange) -> None:
        id_ = f"{OUTCOME_ID}{secrets.token_hex(12)}"
        request_id = answer.headers.get("x-request-id")
        output.write(outcome_line(id_, request, status=answer.status, request_id=request_id, body=answer.body))
        output.flush()
        if answer.status < 300:
            self.succeeded += 1
        else:
            self.refused += 1
        self._waits.clear()

    @property
    def _written(self) -> str:
        return "1 answer was written" if self.answered == 1 else f"{self.answered} answers were written"

    def _say_once(self, problem: DaemonProblem) -> None:
        """Say why the job waits, unless it was said since the last answer. Any thread may call it."""
        if not self._waits.is_set():
            self._waits.set()
            complain(f"{problem}. It is asked again for up to {_PATIENCE_S / 60:.0f} minutes")


def _next(answers: "SimpleQueue[_Answered]") -> _Answered:
    while True:  # in short waits, so that an interrupt is noticed
        with contextlib.suppress(Empty):
            return answers.get(timeout=_LOOK_S)


def _ask(
    client: Client, request: BatchRequest, is_over: Event, say: Callable[[DaemonProblem], None]
) -> Exchange | DaemonProblem:
    """The answer to a request. A daemon that is busy or away is asked again, and `say` is told why.

    A problem that ends the whole job is returned, not raised.
    """
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        pause_s = _AGAIN_S
        try:
            answer = client.exchange("POST", request.url, request.body, timeout_s=_ANSWER_LIMIT_S)
        except DaemonProblem as error:
            if error.exit_status not in {os.EX_TEMPFAIL, os.EX_UNAVAILABLE}:
                return error
            problem = error
        else:
            if answer.status in _NOT_LET_IN:
                return client.problem(answer)
            if answer.status not in _BUSY:
                return answer
            problem = client.problem(answer)
            pause_s = _pause_s(answer.headers)
        if time.monotonic() + pause_s > until_s:
            return problem
        say(problem)
        if is_over.wait(pause_s):
            return problem


def _pause_s(headers: HTTPMessage) -> float:
    """How long the daemon asks to wait, in seconds, within bounds."""
    said = headers.get("retry-after") or ""
    wanted = float(said) if said.isascii() and said.isdigit() and len(said) < 6 else _AGAIN_S
    return min(max(wanted, 0.1), _LONGEST_PAUSE_S)


def _seats(client: Client) -> int:
    """How many requests the service runs at a time, over all its models. The usual number if it has none yet."""
    health = client.get("/health")
    models = health.get("models") if isinstance(health, dict) else None
    seats = [each.get("max_in_flight") for each in models or () if isinstance(each, dict)]
    return max((each for each in seats if isinstance(each, int) and 0 < each <= 1024), default=_USUAL_STREAMS)


def _read_outcomes(output: BinaryIO, target: Path, requests: Iterable[str]) -> tuple[set[str], int]:
    try:
        return parse_outcomes(output, known=requests)
    except LineProblem as problem:
        raise LineProblem(f"{target}: {problem}; name another file") from None


def _read_requests(source: Path, *, model: str | None) -> Iterator[BatchRequest]:
    with source.open("rb") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise LineProblem(f"{source}: line {number} has more than {_LONGEST_LINE} bytes")
            if line.strip():
                try:
                    yield parse_request(line, line=number, model=model)
                except LineProblem as problem:
                    raise LineProblem(f"{source}: {problem}") from None


@contextlib.contextmanager
def _output(target: Path) -> Iterator[BinaryIO]:
    """The output, opened for reading and writing, and for this job alone. Made if it is not there."""
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "r+b") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.UsageError(f"{target}: another batch writes into this file now") from None
        yield output


def _say(job: _Job, target: Path, *, total: int, as_json: bool) -> None:
    if as_json:
        counts = {"total": total, "already": job.already, "succeeded": job.succeeded, "refused": job.refused}
        print_json(counts)
        return
    before = f", {job.already} were there before" if job.already else ""
    refused = f", {job.refused} of them refused" if job.refused else ""
    print(f"{job.already + job.answered} of {total} requests have an outcome in {shown(str(target))}{before}{refused}")
