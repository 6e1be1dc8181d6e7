"""What looks for broken promises finds them: a checker that cannot fail says nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.faults import gateway as gateways
from tests.faults import sabotaged
from tests.faults.exchanges import Ending, judge_stream, judge_whole
from tests.faults.footprint import slope
from tests.faults.gateway import Gateway
from tests.faults.invariants import check_invariants, overlapping_loads, told_secrets
from tests.faults.rig import TINY_FILE, config, running_rig
from tests.faults.subject import SECRET, TINY, TINY_TOO, Rig
from tests.system.daemon import eventually, running_daemon

ROLE = b'data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":null}]}'
TEXT = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'
ERROR = b'data: {"error":{"message":"gone","type":"api_error","code":"engine_failed"}}'
DONE = b"data: [DONE]"


# ---------------------------------------------------------------------------------------------------- how it is told


@pytest.mark.parametrize(
    ("lines", "ending"),
    [
        ([ROLE, b"", b": still here", TEXT, STOP, DONE], Ending.COMPLETE),
        ([ROLE, TEXT, ERROR], Ending.ERROR_EVENT),
        ([ROLE, TEXT], Ending.BROKEN),
        ([ROLE, TEXT, STOP], Ending.BROKEN),
        ([ROLE, TEXT, DONE], Ending.BROKEN),
        ([ROLE, ERROR, DONE], Ending.BROKEN),
        ([ROLE, STOP, DONE, TEXT], Ending.BROKEN),
        ([b"<html>"], Ending.BROKEN),
        ([ROLE, b'data: {"error":{"message":""}}'], Ending.BROKEN),
        ([], Ending.BROKEN),
    ],
)
def test_a_stream_has_ended_properly_only_with_done_behind_a_reason_or_with_an_error_behind_which_is_nothing(
    lines: list[bytes], ending: Ending
) -> None:
    assert judge_stream(lines, headers={}).ending is ending


@pytest.mark.parametrize(
    ("status", "headers", "body", "ending"),
    [
        (200, {}, b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}', Ending.COMPLETE),
        (200, {}, b'{"choices":[{"message":{"content":"Hi"},"finish_reason":null}]}', Ending.BROKEN),
        (200, {}, b'{"choices":[]}', Ending.BROKEN),
        (200, {}, b'{"choices":[{"mess', Ending.BROKEN),
        (404, {}, b'{"error":{"message":"no","type":"invalid_request_error","code":"x"}}', Ending.REFUSED),
        (404, {}, b'{"detail":"no"}', Ending.BROKEN),
        (503, {"retry-after": "2"}, b'{"error":{"message":"no","type":"x","code":"y"}}', Ending.REFUSED),
        (503, {}, b'{"error":{"message":"no","type":"x","code":"y"}}', Ending.BROKEN),
        (502, {}, b"Bad Gateway", Ending.BROKEN),
    ],
)
def test_an_answer_has_ended_properly_only_with_a_whole_reply_or_in_the_envelope(
    status: int, headers: dict[str, str], body: bytes, ending: Ending
) -> None:
    assert judge_whole(status, headers, body).ending is ending


def test_two_loads_of_an_id_overlap_only_if_the_first_has_no_end_yet() -> None:
    begin, ready = "INFO r: loading model: resolving model_id={}", "INFO h: engine ready model_id={} description=x"
    cancelled, failed = (
        "INFO r: load cancelled: x model_id={} elapsed_ms=1",
        "WARNING e: refused: x path=/models/load model_id={}",
    )
    for end in (ready, cancelled, failed):
        assert overlapping_loads("\n".join(line.format("a/b") for line in (begin, end, begin))) == set()
    assert overlapping_loads("\n".join((begin.format("a/b"), begin.format("c/d"), ready.format("c/d")))) == set()
    assert overlapping_loads("\n".join((begin.format("a/b"), ready.format("c/d"), begin.format("a/b")))) == {"a/b"}


def test_a_secret_in_the_log_is_found_and_a_short_word_is_none() -> None:
    log = f"INFO x: prompt was {SECRET} and the reply A long story."
    assert told_secrets(log, [SECRET, "A long story.", "story", "another long story"]) == [SECRET, "A long story."]


def test_the_slope_is_the_rise_for_each_step_of_the_best_line() -> None:
    assert slope([5.0, 7.0, 9.0, 11.0]) == pytest.approx(2)
    assert slope([3.0, 3.0, 3.0]) == 0
    assert slope([0.0, 10.0, 0.0, 10.0, 0.0]) == 0


class Broken(BaseHTTPRequestHandler):
    """A host that has no more than words for a gateway."""

    def do_GET(self) -> None:
        body = b"Internal Server Error"
        self.send_response(500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def broken_host() -> Iterator[int]:
    """The port that it listens on."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(server.serve_forever, 0.05)
        try:
            yield server.server_port
        finally:
            server.shutdown()


@pytest.mark.process
def test_an_answer_that_is_none_is_missed_at_each_poll() -> None:
    with broken_host() as port, Gateway(port) as gateway:
        eventually(lambda: len(gateway.misses) > len(gateways.QUESTIONS))
    assert gateway.misses[0].startswith("/health after ")
    assert "DecodeError" in gateway.misses[0]


@pytest.mark.process
def test_a_gateway_that_breaks_down_has_missed_something(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_body: bytes) -> None:
        raise RuntimeError

    monkeypatch.setitem(gateways.QUESTIONS, "/health", fail)
    with broken_host() as port, Gateway(port) as gateway:
        assert eventually(lambda: gateway.misses) == ["the gateway itself broke down: RuntimeError()"]


# --------------------------------------------------------------------------------------------------- how it is broken


def lose_an_engine(rig: Rig) -> None:
    """In mid-reply."""
    reply, engine = rig.decoding(TINY), rig.engine_of(TINY)
    os.kill(engine, signal.SIGKILL)
    reply.outcome()
    rig.wait_recovered(TINY, dead=engine)


def lose_a_model(rig: Rig) -> None:
    """Its file is gone when the engine is to be started again."""
    assert rig.load(TINY_TOO).is_success
    (rig.daemon.log_path.parent / TINY_FILE).unlink()
    os.kill(rig.engine_of(TINY_TOO), signal.SIGKILL)
    eventually(lambda: rig.daemon.health()["lost"])


def load_again(rig: Rig) -> None:
    rig.load_anew(TINY)


def load_at_once(rig: Rig) -> None:
    """The same model, by two who do not know of each other."""
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(rig.load, [TINY_TOO] * 2))


def nothing(_rig: Rig) -> None:
    pass


@pytest.mark.faults
@pytest.mark.system
@pytest.mark.parametrize(
    ("sabotage", "provoke", "promise"),
    [
        (sabotaged.end_silently, lose_an_engine, "I3:"),
        (sabotaged.keep_seats, nothing, "I4:"),
        (sabotaged.leak_descriptors, load_again, "I5:"),
        (sabotaged.leave_zombies, nothing, "I5:"),
        (sabotaged.spoil_the_cache, nothing, "I6:"),
        (sabotaged.hoard_memory, nothing, "I7:"),
        (sabotaged.list_the_dead, lose_a_model, "I8:"),
        (sabotaged.tell_the_log, nothing, "I9:"),
        (sabotaged.end_badly, nothing, "I10:"),
        (sabotaged.fail_on_nonsense, nothing, "I11:"),
        (sabotaged.load_twice, load_at_once, "I12:"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value.strip(":"),
)
def test_a_daemon_that_breaks_a_promise_is_reported(
    tmp_path: Path, sabotage: Callable[[], None], provoke: Callable[[Rig], None], promise: str
) -> None:
    def run() -> None:
        with running_rig(tmp_path, config(tmp_path, TINY), command=sabotaged.command(sabotage)) as rig:
            rig.patience_s = 0.5
            provoke(rig)
            check_invariants(rig)

    with pytest.raises(AssertionError, match=f"^{promise}"):
        run()


@pytest.mark.faults
@pytest.mark.system
def test_a_daemon_that_answers_polls_too_late_is_reported(tmp_path: Path) -> None:
    command = sabotaged.command(sabotaged.block_the_loop)
    with running_daemon(tmp_path, command=command) as daemon, Gateway(daemon.port, limit_s=0.2) as gateway:
        eventually(lambda: gateway.misses)
        rig = Rig(daemon, gateway)
        with pytest.raises(AssertionError, match=r"^I2: \d+ polls"):
            check_invariants(rig)


@pytest.mark.faults
@pytest.mark.system
def test_a_daemon_that_is_gone_is_reported(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, TINY)) as rig:
        rig.daemon.signal(signal.SIGKILL)
        rig.daemon.wait()
        with pytest.raises(AssertionError, match=r"^I1: the daemon ended with status -9"):
            check_invariants(rig)
