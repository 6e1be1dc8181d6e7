"""The waiting line of one engine: prepared requests that have not begun, and whose turn it is. Pure.

Callers take turns, identified ones before anonymous ones. What one caller has sent begins in order of arrival.
"""

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from neuron_lib.admission import ANONYMOUS
from neuron_lib.engine import sequence as engine
from neuron_lib.engine.protocol import RequestClass

__all__ = ("Line", "Request", "whose_turn")


@dataclass(slots=True, frozen=True, eq=False)
class Request:
    """A request whose prompt is prepared, from its place in the line until its last sequence has ended.

    `number` is greater the later the request came. The request begins when `seats` seats are free at once.
    `arrived_s` is the time of its arrival, in seconds of the engine's clock. `request_id` is that of its `Submit`.
    `cells` are those that it reserves, if it shares no prompt with others.
    """

    number: int
    sequences: tuple[engine.Sequence, ...]
    seats: int = 1
    class_: RequestClass = field(default_factory=RequestClass)
    arrived_s: float = 0.0
    request_id: str = ""
    cells: int = 0

    @property
    def caller(self) -> str:
        """Whose request it is; `ANONYMOUS` for nobody in particular."""
        return self.class_.principal


def whose_turn(
    waiting: Sequence[Request], *, turns: Mapping[str, float], held: Mapping[str, int], free_seats: int
) -> Request | None:
    """Who of those that wait, in order of arrival, begins next; None if nobody may.

    `turns` has for each identified caller who waits when its turn is: the lowest number is next. `held` are the seats
    that each caller holds; of two callers with the same turn, the one that holds less is next. Whose turn it is waits
    until all of its seats are free, and nobody begins before it. So an anonymous caller begins only while nobody
    identified waits, and only if its kind does not hold too many seats.
    """
    identified = [request for request in waiting if request.caller != ANONYMOUS]
    if identified:
        first = min(identified, key=lambda each: (turns[each.caller], held.get(each.caller, 0), each.number))
        return first if first.seats <= free_seats else None
    if not waiting:
        return None
    oldest = waiting[0]
    if oldest.class_.most_seats:
        free_seats = min(free_seats, oldest.class_.most_seats - held.get(ANONYMOUS, 0))
    return oldest if oldest.seats <= free_seats else None


class Line:
    """Requests that wait to begin, one line for each engine. Iteration is in order of arrival.

    Turns follow a virtual clock (weighted fair queueing): a seat costs its caller one turn, and while n identified
    callers wait, a seat moves the clock by 1/n. Where one caller waits alone, the clock shows the turn that it has just
    had. Who comes to the line has its turn at the clock's time, or when what it had before is paid for. So callers that
    always wait get equally many seats, a caller that has just come waits for one or two turns of each other caller, or
    for none if only one waits, and however many callers come, nobody is overtaken for ever.
    """

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._clock = 0.0
        self._turns: dict[str, float] = {}  # of identified callers that wait, or had more than the clock says

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._waiting)

    def enter(self, request: Request) -> None:
        """Let a request wait. It stands before all that came later, also before those that were prepared sooner."""
        if request.caller != ANONYMOUS and request.caller not in self._callers:
            self._turns[request.caller] = max(self._clock, self._turns.get(request.caller, 0.0))
        insort(self._waiting, request, key=lambda waiting: waiting.number)

    def leave(self, number: int) -> None:
        """Take a request out that is given up; a number that is not in the line is ignored."""
        self._waiting = [request for request in self._waiting if request.number != number]
        self._forget_past()

    def begin(self, request: Request) -> None:
        """Take a request out that begins: its caller has had its turn."""
        if request.caller != ANONYMOUS:
            callers, turn = len(self._callers), self._turns[request.caller]
            self._turns[request.caller] = turn + request.seats
            self._clock = turn if callers == 1 else self._clock + request.seats / callers
        self.leave(request.number)

    def next(self, held: Mapping[str, int], *, free_seats: int) -> Request | None:
        """Whose turn it is now. The request stays in the line until it begins. `held` are the seats of each caller."""
        return whose_turn(self._waiting, turns=self._turns, held=held, free_seats=free_seats)

    @property
    def _callers(self) -> set[str]:
        """The identified callers that wait."""
        return {request.caller for request in self._waiting} - {ANONYMOUS}

    def _forget_past(self) -> None:
        callers = self._callers
        if not callers:
            self._clock = 0.0
        self._turns = {who: turn for who, turn in self._turns.items() if who in callers or turn > self._clock > 0}
