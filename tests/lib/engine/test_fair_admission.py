"""Callers of all kinds over virtual time: the admission, the real scheduler, and an engine that follows its plans.

Each step takes as long as it has tokens. Callers come, lose patience and leave whenever the example says so. The engine
hears of those who left between two steps.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.admission import AdmissionController, AdmissionRules, Capacity, Place
from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.line import Request
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Broken, Delta, RequestClass
from neuron_lib.engine.reservation import Reservation
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan
from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.errors import InvalidRequest, Overloaded, OverloadReason
from neuron_lib.testing import ScriptedRunner
from neuron_lib.types import Principal
from tests.examples import examples

N_CTX = 64
MOST_OVERTAKING = 4
"""Requests of one principal that begin before the oldest of another one: two turns, of two seats each at most."""


@dataclass(kw_only=True)
class Caller:
    """One request. It comes at `comes_at`, and leaves of itself after `patience` seconds; None: never."""

    who: str
    comes_at: int
    choices: int = 1
    prompt: int = 4
    reply: int = 5
    patience: int | None = None


@dataclass(eq=False)
class Guest:
    """A caller that was let in."""

    caller: Caller
    place: Place
    leave: Callable[[], object]
    waits: bool = True
    left: int = 0
    overtaken_by: Counter[str] = field(default_factory=Counter)


class Town:
    """One model, and all who want something of it."""

    def __init__(self, rules: AdmissionRules, *, pool: int | None = None) -> None:
        seats = rules.max_in_flight
        cells: CellAccount = StreamCells(seats, N_CTX) if pool is None else PooledCells(seats, pool)
        costs = StepCosts(target_step_s=1.0)
        cache = PromptCache(seats=seats, cells=cells, costs=costs)
        self.reservation = Reservation(cells=pool or seats * N_CTX, n_ctx=N_CTX, seats=seats, is_pool=pool is not None)
        self.scheduler = Scheduler(cache=cache, cells=cells, costs=costs, n_batch=64, n_ctx=N_CTX)
        capacity = Capacity(seats=seats, cells=self.reservation.cells, cell_bytes=1 << 20)
        self.admission = AdmissionController(rules, capacity=lambda: capacity)
        self.runner = ScriptedRunner(duration_s=lambda plan: plan.token_count)
        self.now_s = 0.0
        self.guests: dict[int, Guest] = {}
        self.went: set[int] = set()  # of whom the engine does not know yet that they left
        self.refused: Counter[str] = Counter()
        self.served: list[Caller] = []
        self.lost_patience = 0
        self.positions: dict[Sequence, int] = {}
        self.overtaken: dict[str, Counter[str]] = defaultdict(Counter)
        self.most_running = 0

    def run(self, callers: list[Caller]) -> None:
        """Until all have come and nobody is left."""
        to_come = sorted(callers, key=lambda caller: caller.comes_at)
        while to_come or self.guests:
            while to_come and to_come[0].comes_at <= self.now_s:
                self.come(to_come.pop(0))
            self.give_up()
            for number in self.went:
                self.scheduler.cancel(number)
                self.guests.pop(number).place.end()
            self.went.clear()
            plan = self.scheduler.plan(self.now_s)
            if plan is not None:
                self.step(plan)
            elif to_come:
                self.now_s = to_come[0].comes_at
            else:
                assert not self.guests, "somebody waits, and nothing is done"
            self.check()

    def come(self, caller: Caller) -> None:
        account = None if not caller.who else Principal(caller.who, "key")
        context = self.admission.place(caller.choices, principal=account, refuse=lambda _refusal: None)
        try:
            place = context.__enter__()
        except (Overloaded, InvalidRequest) as error:
            self.refused[error.reason if isinstance(error, Overloaded) else "n"] += 1
            return
        prompt = [place.number % 7] * caller.prompt
        sequences = tuple(
            Sequence(
                request=place.number,
                choice=choice,
                prompt=prompt,
                max_tokens=caller.reply,
                reserved_tokens=caller.reply,
                cache_key=caller.who,
            )
            for choice in range(caller.choices)
        )
        cells = self.reservation.of(sequences, seats=caller.choices)
        if cells > self.reservation.cells:
            context.__exit__(None, None, None)
            self.refused["cells"] += 1
            return
        place.prepare(cells=cells)
        self.guests[place.number] = Guest(caller, place, lambda: context.__exit__(None, None, None))
        class_ = RequestClass(principal=place.caller, most_seats=place.most_seats)
        self.scheduler.submit(Request(place.number, sequences, caller.choices, class_, self.now_s, cells=cells))

    def give_up(self) -> None:
        """Who has waited for too long is refused, and who wants to leave leaves."""
        for number, guest in self.guests.items():
            waited_s = self.now_s - guest.caller.comes_at
            is_expired = guest.waits and waited_s > guest.place.patience_s
            if is_expired:
                self.refused[guest.place.expired("too long").reason] += 1
            if is_expired or (guest.caller.patience is not None and waited_s > guest.caller.patience):
                self.lost_patience += not is_expired
                if guest.place.holds_seats:
                    guest.place.linger()
                guest.leave()
                self.went.add(number)

    def step(self, plan: StepPlan) -> None:
        for request in plan.began:
            guest = self.guests[request.number]
            guest.place.begin()
            guest.waits, guest.left = False, guest.caller.choices
            self.overtaken[guest.caller.who] |= guest.overtaken_by
            self.note_overtaken(guest.caller.who)
        for chunk in plan.chunks:
            assert chunk.position >= self.positions.get(chunk.sequence, 0), "it lost its cells"
            self.positions[chunk.sequence] = chunk.position
        events = self.scheduler.apply(plan, self.runner.run(plan))
        self.now_s += plan.token_count
        for event in events:
            assert not isinstance(event, Broken)
            if isinstance(event, Delta) or event.request not in self.guests:
                continue
            guest = self.guests[event.request]
            guest.place.end_reply()
            guest.left -= 1
            if not guest.left:
                del self.guests[event.request]
                guest.leave()
                self.served.append(guest.caller)

    def note_overtaken(self, who: str) -> None:
        heads: dict[str, Guest] = {}
        for guest in self.guests.values():
            if guest.waits:
                heads.setdefault(guest.caller.who, guest)
        for guest in heads.values():
            guest.overtaken_by[who] += guest.caller.who != who
            if guest.caller.who:
                assert guest.overtaken_by[""] == 0, "an anonymous caller began before a principal"
                assert max(guest.overtaken_by.values()) <= MOST_OVERTAKING

    def check(self) -> None:
        """What is true at any time."""
        rules, counts = self.admission.rules, self.admission.snapshot()
        running = [guest for guest in self.guests.values() if not guest.waits]
        self.most_running = max(self.most_running, len(running))
        anonymous = [guest for guest in running if not guest.caller.who]
        assert counts.in_flight == sum(guest.left for guest in running) <= rules.max_in_flight
        assert counts.anon_in_flight == sum(guest.left for guest in anonymous) <= rules.max_in_flight
        if rules.anon_max_in_flight is not None:
            assert counts.anon_in_flight <= rules.anon_max_in_flight
        waiting = sum(guest.waits for number, guest in self.guests.items() if number not in self.went)
        assert counts.queue_depth == waiting
        assert counts.kv_available_mb <= counts.kv_budget_mb
        by_caller = Counter(guest.caller.who for guest in self.guests.values() if guest.caller.who)
        if rules.most_of_one:
            assert max(by_caller.values(), default=0) <= rules.most_of_one


CALLERS = st.builds(
    Caller,
    who=st.sampled_from(["", "", "a", "b", "c"]),
    comes_at=st.integers(0, 60),
    choices=st.sampled_from([1, 1, 1, 2]),
    prompt=st.integers(1, 20),
    reply=st.integers(1, 20),
    patience=st.none() | st.integers(0, 100),
)
RULES = st.builds(
    AdmissionRules,
    max_in_flight=st.integers(1, 4),
    max_queue_depth=st.integers(0, 12),
    max_wait_s=st.sampled_from([20.0, 200.0]),
    kv_max_wait_s=st.sampled_from([0.0, 400.0]),
    max_per_principal=st.none() | st.integers(0, 4),
    anon_max_in_flight=st.none() | st.integers(0, 4),
    anon_max_pending=st.none() | st.integers(0, 6),
)


@settings(max_examples=examples(150))
@given(rules=RULES, callers=st.lists(CALLERS, max_size=30), pool=st.none() | st.integers(N_CTX, 3 * N_CTX))
def test_every_caller_is_served_or_told_why_not_and_the_counts_are_true_at_any_time(
    rules: AdmissionRules, callers: list[Caller], pool: int | None
) -> None:
    town = Town(rules, pool=pool)
    town.run(callers)
    assert len(callers) == len(town.served) + town.refused.total() + town.lost_patience
    counts = town.admission.snapshot()
    assert (counts.in_flight, counts.queue_depth, counts.anon_in_flight) == (0, 0, 0)
    assert counts.kv_available_mb == counts.kv_budget_mb
    refused = town.refused
    assert counts.rejected_queue_full == refused[OverloadReason.QUEUE_FULL]
    assert counts.rejected_timeout == refused[OverloadReason.WAIT_EXPIRED]
    assert counts.rejected_per_principal == refused[OverloadReason.PRINCIPAL_CAP]
    assert counts.rejected_anon_yield == refused[OverloadReason.ANONYMOUS_YIELD]
    assert counts.rejected_kv_timeout == refused[OverloadReason.KV_WAIT_EXPIRED]


@pytest.mark.parametrize("seats", [1, 4])
def test_one_principal_with_a_hundred_requests_does_not_keep_another_one_from_the_next_free_seat(seats: int) -> None:
    town = Town(AdmissionRules(max_in_flight=seats, max_queue_depth=200, max_wait_s=1e9, max_per_principal=0))
    town.run([*(Caller(who="many", comes_at=0) for _ in range(100)), Caller(who="one", comes_at=50)])
    assert len(town.served) == 101
    assert town.overtaken["one"] == Counter()


def test_a_reply_whose_tokens_are_all_reserved_never_loses_its_cells_to_another() -> None:
    """The pool holds two of these whole. Without the reservation four would begin, and two of them lose their cells."""
    rules = AdmissionRules(max_in_flight=4, max_queue_depth=16, max_wait_s=1e9, kv_max_wait_s=1e9)
    town = Town(rules, pool=2 * N_CTX)
    town.run([Caller(who="a", comes_at=0, prompt=4, reply=50) for _ in range(8)])  # `step` checks each plan
    assert len(town.served) == 8
    assert town.most_running == 2
