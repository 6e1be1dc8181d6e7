from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.line import Line, Request
from neuron_lib.engine.protocol import RequestClass


def request(number: int, caller: str = "", *, seats: int = 1, most_seats: int = 0) -> Request:
    return Request(number, (), seats, RequestClass(principal=caller, most_seats=most_seats))


def line_of(*requests: Request) -> Line:
    line = Line()
    for each in requests:
        line.enter(each)
    return line


def order(line: Line) -> list[int]:
    return [waiting.number for waiting in line]


def begin_all(line: Line, *, seats: int = 1 << 30) -> list[int]:
    """The numbers of those that begin one after the other, each after the seats before are free again."""
    begun = []
    while (chosen := line.next({}, free_seats=seats)) is not None:
        line.begin(chosen)
        begun.append(chosen.number)
    return begun


def test_requests_stand_in_the_order_of_their_arrival_whenever_they_were_prepared() -> None:
    line = line_of(*map(request, (2, 5, 1, 3)))
    assert order(line) == [1, 2, 3, 5]
    line.leave(2)
    line.leave(4)
    assert order(line) == [1, 3, 5]


def test_an_empty_line_has_nobody_whose_turn_it_is() -> None:
    assert Line().next({}, free_seats=9) is None


def test_a_request_waits_in_the_line_until_it_begins() -> None:
    line = line_of(request(1))
    chosen = line.next({}, free_seats=1)
    assert chosen is not None
    assert order(line) == [1]
    line.begin(chosen)
    assert order(line) == []


def test_what_one_caller_has_sent_begins_in_order_of_arrival() -> None:
    assert begin_all(line_of(*(request(number) for number in (3, 1, 2)))) == [1, 2, 3]
    assert begin_all(line_of(*(request(number, "a") for number in (3, 1, 2)))) == [1, 2, 3]


def test_whose_turn_it_is_waits_for_all_of_its_seats_and_nobody_begins_before_it() -> None:
    for caller in ("", "a"):
        line = line_of(request(1, caller, seats=2), request(2, caller))
        assert line.next({}, free_seats=1) is None
        chosen = line.next({}, free_seats=2)
        assert chosen is not None
        assert chosen.number == 1


def test_callers_that_wait_take_turns() -> None:
    line = line_of(*(request(number, "a") for number in range(1, 5)), request(5, "b"), request(6, "b"))
    assert begin_all(line) == [1, 5, 2, 6, 3, 4]


def test_a_caller_with_a_hundred_requests_lets_another_one_begin_when_the_next_seat_is_free() -> None:
    line = line_of(*(request(number, "many") for number in range(1, 101)))
    held = Counter[str]()
    for _ in range(4):
        chosen = line.next(held, free_seats=1)
        assert chosen is not None
        line.begin(chosen)
        held["many"] += 1
    line.enter(request(101, "one"))
    chosen = line.next(held, free_seats=1)
    assert chosen is not None
    assert chosen.caller == "one"


def test_of_two_callers_whose_turn_it_is_the_one_that_holds_fewer_seats_is_next() -> None:
    line = line_of(request(1, "a"), request(2, "b"))
    chosen = line.next({"a": 1}, free_seats=1)
    assert chosen is not None
    assert chosen.caller == "b"


def test_a_request_for_several_seats_costs_as_many_turns() -> None:
    line = line_of(request(1, "a", seats=3), request(2, "a"), *(request(number, "b") for number in range(3, 8)))
    assert begin_all(line) == [1, 3, 4, 5, 2, 6, 7]


def test_anonymous_callers_begin_only_while_nobody_identified_waits() -> None:
    line = line_of(request(1), request(2, "a"), request(3), request(4, "b", seats=2))
    assert line.next({}, free_seats=0) is None
    assert begin_all(line) == [2, 4, 1, 3]
    line = line_of(request(1), request(2, "a", seats=2))
    assert line.next({}, free_seats=1) is None


def test_anonymous_callers_together_hold_no_more_seats_than_they_may() -> None:
    line = line_of(request(1, most_seats=2))
    assert line.next({"": 2, "a": 1}, free_seats=5) is None
    assert line.next({"": 1, "a": 4}, free_seats=5) is not None
    assert line_of(request(1)).next({"": 9}, free_seats=1) is not None  # without a bound


def test_a_caller_who_has_had_a_turn_is_not_kept_waiting_by_callers_who_come_for_the_first_time() -> None:
    line, begun = line_of(request(1, "a"), request(2, "a")), []
    for number in range(10, 20):
        line.enter(request(number, f"stranger {number}"))
        chosen = line.next({}, free_seats=1)
        assert chosen is not None
        line.begin(chosen)
        begun.append(chosen.number)
    assert begun[0] == 1
    assert 2 in begun[1:6]


@given(
    st.lists(st.tuples(st.booleans(), st.none() | st.tuples(st.sampled_from("abc"), st.integers(1, 2))), max_size=60)
)
def test_nobody_is_overtaken_for_ever_and_the_line_remembers_no_more_callers_than_matter(
    events: list[tuple[bool, tuple[str, int] | None]],
) -> None:
    """Callers that come once, and no more, come all the time: each of them has had less than those that wait."""
    line, overtaken = Line(), Counter[int]()
    for number, (has_stranger, event) in enumerate(events):
        if has_stranger:
            line.enter(request(1000 + number, f"stranger {number}"))
        if event is not None:
            line.enter(request(number, event[0], seats=event[1]))
        elif (chosen := line.next({}, free_seats=2)) is not None:
            heads = {each.caller: each.number for each in reversed(list(line))}
            overtaken.update(heads.values())
            bound = 2 * len(line) + 2 * len(heads)
            assert max(overtaken[head] for head in heads.values()) <= bound + 2
            line.begin(chosen)
            assert len(line._turns) <= bound
    left = order(line)
    assert sorted(begin_all(line)) == left


@given(st.lists(st.sampled_from("ab"), min_size=2, max_size=40))
def test_two_callers_that_both_wait_never_get_more_than_one_turn_apart(arrivals: list[str]) -> None:
    line = line_of(*(request(number, caller) for number, caller in enumerate(arrivals)))
    begun = Counter[str]()
    while {each.caller for each in line} == {"a", "b"}:
        chosen = line.next({}, free_seats=1)
        assert chosen is not None
        line.begin(chosen)
        begun[chosen.caller] += 1
        assert abs(begun["a"] - begun["b"]) <= 1
