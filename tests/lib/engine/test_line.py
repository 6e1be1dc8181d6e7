from collections.abc import Collection, Sequence

from neuron_lib.engine.line import Line, Request, first_come
from neuron_lib.engine.protocol import RequestClass


def request(number: int, *, seats: int = 1, principal: str = "") -> Request:
    return Request(number, (), seats, RequestClass(principal=principal))


def order(line: Line) -> list[int]:
    return [waiting.number for waiting in line]


def test_requests_stand_in_the_order_of_their_arrival_whenever_they_were_prepared() -> None:
    line = Line()
    for number in (2, 5, 1, 3):
        line.enter(request(number))
    assert order(line) == [1, 2, 3, 5]
    line.leave(2)
    line.leave(4)
    assert order(line) == [1, 3, 5]


def test_an_empty_line_has_nobody_whose_turn_it_is() -> None:
    assert Line().next((), free_seats=9, now_s=0) is None


def test_who_came_first_begins_first_once_all_of_its_seats_are_free_and_nobody_overtakes_it() -> None:
    first, second = request(1, seats=2), request(2)
    assert first_come([first, second], (), 1, 0.0) is None
    assert first_come([first, second], (), 2, 0.0) is first


def test_the_policy_decides_whose_turn_it_is_and_is_told_who_runs_how_many_seats_are_free_and_what_time_it_is() -> None:
    told: list[object] = []

    def identified_first(
        waiting: Sequence[Request], running: Collection[Request], free_seats: int, now_s: float
    ) -> Request | None:
        told.append((running, free_seats, now_s))
        return next((each for each in waiting if each.class_.principal), None)

    line, running = Line(identified_first), (request(0),)
    line.enter(request(1))
    line.enter(request(2, principal="account/key"))
    chosen = line.next(running, free_seats=3, now_s=7.0)
    assert chosen is not None
    assert chosen.number == 2
    assert told == [(running, 3, 7.0)]
    assert order(line) == [1, 2]  # until it leaves
