"""When a request is too slow or too large. Tables over a clock that the test sets."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.request_clock import Arrival, Due, RequestClock, Stage, TimedOut, Verdict

LIMITS = ConnectionLimits(head_s=10, body_s=30, idle_s=150, last_words_s=2, half_closed_check_s=0.1, head_bytes=1000)
HEAD = b"POST / HTTP/1.1\r\n"
NOW_S = 100.0
HEAD_TIMED_OUT = TimedOut("head", 10)
BODY_TIMED_OUT = TimedOut("body", 30)


def at(clock: RequestClock, now_s: float, *, is_answering: bool = False, is_closing: bool = False) -> Verdict:
    return clock.judge(now_s=now_s, is_answering=is_answering, is_closing=is_closing)


def receive(clock: RequestClock, data: bytes, *, now_s: float = NOW_S, is_answering: bool = False) -> Arrival:
    return clock.receive(data, now_s=now_s, is_answering=is_answering)


# ------------------------------------------------------------------------- how a clock gets into each of its states


def silent() -> RequestClock:
    return RequestClock(LIMITS, now_s=NOW_S)


def in_head() -> RequestClock:
    clock = silent()
    assert receive(clock, HEAD) is Arrival.READ
    return clock


def in_body() -> RequestClock:
    clock = in_head()
    clock.end_head(now_s=NOW_S)
    return clock


def whole(*, is_answered: bool = False, is_last: bool = False) -> RequestClock:
    clock = in_body()
    clock.end_body(now_s=NOW_S, is_answered=is_answered, is_last=is_last)
    return clock


def next_head() -> RequestClock:
    clock = whole()
    assert receive(clock, HEAD) is Arrival.READ
    return clock


def next_head_of_the_same_read() -> RequestClock:
    clock = whole()
    assert clock.begin_request(now_s=NOW_S, is_answering=False) is Arrival.READ
    return clock


def half_closed() -> RequestClock:
    clock = whole()
    clock.end_input(now_s=NOW_S)
    return clock


def ahead() -> RequestClock:
    clock = whole()
    assert receive(clock, HEAD, is_answering=True) is Arrival.AHEAD
    return clock


def lingering() -> RequestClock:
    clock = in_body()
    clock.ignore_rest(now_s=NOW_S, for_s=2)
    return clock


# -------------------------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize(
    ("state", "is_answering", "limit_s", "verdict"),
    [
        pytest.param(silent, False, 10, Due.CLOSE, id="a new connection that stays silent is closed without a word"),
        pytest.param(in_head, False, 10, HEAD_TIMED_OUT, id="a head that does not end is refused"),
        pytest.param(in_body, False, 30, BODY_TIMED_OUT, id="a body that does not end is refused"),
        pytest.param(next_head, False, 10, HEAD_TIMED_OUT, id="the head of a later request has the same deadline"),
        pytest.param(
            next_head_of_the_same_read, False, 10, HEAD_TIMED_OUT, id="so has one that began in the middle of a read"
        ),
        pytest.param(
            lambda: whole(is_answered=True), False, 150, Due.CLOSE, id="the idle time follows an early answer's request"
        ),
        pytest.param(
            lambda: whole(is_answered=True, is_last=True), False, 0, Due.CLOSE, id="but not if that was the last"
        ),
        pytest.param(half_closed, True, 0.1, Due.CHECK_CLIENT, id="a client that sends no more is looked after"),
        pytest.param(half_closed, False, 0.1, Due.CLOSE, id="until its answer has ended"),
        pytest.param(lingering, False, 2, Due.CLOSE, id="a client that stays after the last word is not waited for"),
    ],
)
def test_each_deadline_is_over_at_its_limit_and_not_before(
    state: Callable[[], RequestClock], limit_s: float, verdict: Verdict, *, is_answering: bool
) -> None:
    clock = state()
    assert clock.deadline_s == NOW_S + limit_s
    if limit_s:
        assert at(clock, NOW_S + limit_s * 0.999, is_answering=is_answering) is Due.NOTHING
        assert clock.deadline_s == NOW_S + limit_s
    assert at(clock, NOW_S + limit_s, is_answering=is_answering) == verdict


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(whole, id="while an answer is made"),
        pytest.param(ahead, id="nor if the client sent ahead of it"),
    ],
)
def test_no_deadline_runs(state: Callable[[], RequestClock]) -> None:
    clock = state()
    assert clock.deadline_s == inf
    assert at(clock, NOW_S + 1e9, is_answering=True) is Due.NOTHING


def test_a_head_that_trickles_gets_no_more_time_than_one_that_stops() -> None:
    clock = silent()
    for second in range(10):
        assert receive(clock, b"y", now_s=NOW_S + second) is Arrival.READ
    assert at(clock, NOW_S + 10) == HEAD_TIMED_OUT


def test_a_body_that_trickles_gets_no_more_time_than_one_that_stops() -> None:
    clock = in_body()
    for second in range(30):
        assert receive(clock, b"y", now_s=NOW_S + second) is Arrival.READ
        clock.add_body()
    assert at(clock, NOW_S + 30) == BODY_TIMED_OUT


def test_the_time_of_a_later_request_begins_with_its_first_byte() -> None:
    clock = whole()
    assert receive(clock, b"G", now_s=NOW_S + 70) is Arrival.READ
    assert clock.deadline_s == NOW_S + 80


def test_a_client_that_sends_no_more_is_checked_again_and_again() -> None:
    clock = half_closed()
    for look in range(1, 5):
        now_s = clock.deadline_s
        assert now_s == pytest.approx(NOW_S + 0.1 * look)
        assert at(clock, now_s, is_answering=True) is Due.CHECK_CLIENT


@pytest.mark.parametrize("state", [silent, in_head, in_body, half_closed, lingering])
def test_a_connection_that_is_closing_already_is_left_alone(state: Callable[[], RequestClock]) -> None:
    clock = state()
    assert at(clock, NOW_S + 1000, is_closing=True) is Due.NOTHING
    assert clock.deadline_s == inf


@pytest.mark.parametrize("state", [silent, in_head, in_body, lingering])
def test_a_deadline_is_reported_once(state: Callable[[], RequestClock]) -> None:
    clock = state()
    assert at(clock, NOW_S + 1000) is not Due.NOTHING
    assert at(clock, NOW_S + 2000) is Due.NOTHING


# ----------------------------------------------------------------------------------------------- what belongs to what


@pytest.mark.parametrize(
    ("state", "data", "is_answering", "arrival"),
    [
        pytest.param(silent, HEAD, False, Arrival.READ, id="the first request"),
        pytest.param(in_head, HEAD, False, Arrival.READ, id="more of a head"),
        pytest.param(in_body, b"{}", False, Arrival.READ, id="more of a body"),
        pytest.param(whole, HEAD, False, Arrival.READ, id="the next request"),
        pytest.param(whole, b"\r\n" + HEAD, False, Arrival.READ, id="an empty line and the next request"),
        pytest.param(whole, HEAD, True, Arrival.AHEAD, id="a request ahead of an answer"),
        pytest.param(whole, b"\x16\x03", True, Arrival.AHEAD, id="anything ahead of an answer"),
        pytest.param(whole, b"\r\n", True, Arrival.SKIP, id="an empty line behind a body that is being answered"),
        pytest.param(whole, b"\r\n", False, Arrival.SKIP, id="an empty line behind an answer"),
        pytest.param(whole, b"\n\r\n", False, Arrival.SKIP, id="several"),
        pytest.param(ahead, HEAD, True, Arrival.SKIP, id="what follows what was sent ahead"),
        pytest.param(lingering, HEAD, False, Arrival.SKIP, id="what follows a last word"),
    ],
)
def test_bytes_belong_to_a_request_or_to_none(
    state: Callable[[], RequestClock], data: bytes, arrival: Arrival, *, is_answering: bool
) -> None:
    assert receive(state(), data, is_answering=is_answering) is arrival


def test_a_request_in_the_same_read_as_the_one_before_is_ahead_of_its_answer() -> None:
    clock = whole()
    assert clock.begin_request(now_s=NOW_S, is_answering=True) is Arrival.AHEAD
    assert clock.stage is Stage.IGNORING


def test_an_empty_line_behind_a_body_begins_no_request() -> None:
    clock = whole(is_answered=True)
    receive(clock, b"\r\n", now_s=NOW_S + 1)
    assert (clock.stage, clock.deadline_s, clock.is_receiving) == (Stage.WHOLE, NOW_S + 150, False)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (silent, False), (in_head, True), (in_body, True), (whole, False), (next_head, True),
        (next_head_of_the_same_read, True), (half_closed, False), (ahead, False), (lingering, False),
    ],
)  # fmt: skip
def test_a_request_is_received_from_its_first_byte_to_its_last(
    state: Callable[[], RequestClock], *, expected: bool
) -> None:
    assert state().is_receiving is expected


def test_the_first_line_of_each_request_is_its_own() -> None:
    clock = silent()
    receive(clock, b"GET / RTSP/1.0\r\n")
    assert clock.line.names_other_protocol
    clock.end_head(now_s=NOW_S)
    clock.end_body(now_s=NOW_S, is_answered=False, is_last=False)
    receive(clock, b"GET / HTTP/1.1\r\n")
    assert not clock.line.names_other_protocol


# ------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("state", "already", "told"),
    [
        pytest.param(silent, 0, "request line and the headers", id="a head"),
        pytest.param(in_head, len(HEAD), "request line and the headers", id="a head in pieces"),
        pytest.param(in_body, 0, "trailers or the frame of a chunk", id="around the pieces of a body"),
        pytest.param(next_head_of_the_same_read, 1, "request line and the headers", id="a head in mid-read"),
    ],
)
def test_the_bytes_around_a_body_are_bounded(state: Callable[[], RequestClock], already: int, told: str) -> None:
    clock = state()
    receive(clock, b"x" * (1000 - already))
    assert clock.excess is None
    receive(clock, b"x")
    assert clock.excess == f"The {told} exceed 1000 bytes."


def test_a_body_itself_is_not_counted() -> None:
    clock = in_body()
    for _ in range(100):
        receive(clock, b"x" * 900)
        clock.add_body()
        assert clock.excess is None


def test_the_end_of_a_head_or_of_a_request_starts_the_count_again() -> None:
    clock = silent()
    receive(clock, b"x" * 900)
    clock.end_head(now_s=NOW_S)
    receive(clock, b"x" * 900)
    assert clock.excess is None
    clock.end_body(now_s=NOW_S, is_answered=False, is_last=False)
    receive(clock, b"x" * 900)
    assert clock.excess is None


@pytest.mark.parametrize("state", [whole, ahead, lingering])
def test_bytes_that_belong_to_no_request_are_not_counted(state: Callable[[], RequestClock]) -> None:
    clock = state()
    receive(clock, b"\r\n" * 10_000, is_answering=True)
    assert clock.excess is None


# --------------------------------------------------------------------------------------------------- in any order


class AnyConnection(RuleBasedStateMachine):
    """One connection with the events of client, application and time in every possible order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = NOW_S
        self.clock = RequestClock(LIMITS, now_s=self.now_s)
        self.is_answering = False
        self.is_answered = False
        self.is_closed = False

    @precondition(lambda self: not self.is_closed)
    @rule(data=st.sampled_from([b"G", b"\r\n", HEAD, b"x" * 1001]))
    def arrive(self, data: bytes) -> None:
        before = self.clock.stage
        arrival = receive(self.clock, data, now_s=self.now_s, is_answering=self.is_answering)
        if arrival is Arrival.READ and before is Stage.WHOLE:
            self.is_answered = False

    @precondition(lambda self: not self.is_closed and self.clock.stage is Stage.HEAD and self.clock.is_receiving)
    @rule()
    def end_head(self) -> None:
        self.clock.end_head(now_s=self.now_s)

    @precondition(lambda self: not self.is_closed and self.clock.stage is Stage.BODY)
    @rule(is_last=st.booleans())
    def end_body(self, *, is_last: bool) -> None:
        self.clock.end_body(now_s=self.now_s, is_answered=self.is_answered, is_last=is_last)
        self.is_answering = not self.is_answered

    @precondition(lambda self: self.is_answering or self.clock.stage is Stage.BODY)
    @rule()
    def answer(self) -> None:
        self.is_answering, self.is_answered = False, True

    @precondition(lambda self: self.is_answering)
    @rule()
    def stop_sending(self) -> None:
        self.clock.end_input(now_s=self.now_s)

    @rule(delay_s=st.sampled_from([0.05, 1, 9, 31, 200]))
    def wait(self, delay_s: float) -> None:
        self.now_s += delay_s
        verdict = at(self.clock, self.now_s, is_answering=self.is_answering, is_closing=self.is_closed)
        if self.is_answering:
            assert verdict in {Due.NOTHING, Due.CHECK_CLIENT}
        if isinstance(verdict, TimedOut):
            self.clock.ignore_rest(now_s=self.now_s, for_s=2)
        self.is_closed |= verdict is Due.CLOSE

    @invariant()
    def a_request_that_arrives_has_a_deadline_ahead(self) -> None:
        if self.clock.is_receiving and not self.is_closed:
            assert self.now_s <= self.clock.deadline_s < inf


TestAnyConnection = AnyConnection.TestCase
TestAnyConnection.settings = settings(stateful_step_count=20)
