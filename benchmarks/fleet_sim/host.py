"""One simulated host: neuron's own admission, line, scheduler and prompt cache, with a table instead of a model.

Everything that decides is what the daemon runs: `AdmissionController`, `Scheduler`, `PromptCache`, `StepCosts`. Here
are only the parts around them: the runner, whose steps take the time that `StepTimes` says, and the steps of a request
through the daemon (`neuron_lib.llamacpp.reply`).

Equal steps are taken together. While every live sequence decodes, the next plan is the same until a reply ends or a
request arrives. So up to `_MOST_TOGETHER` steps are one plan whose chunks bring several tokens each. If a request
arrives meanwhile, the step in progress is the last one. A step that reads prompts is always alone.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final, Literal, Protocol, TypeAlias

from benchmarks.fleet_sim.agenda import Agenda, Entry
from benchmarks.fleet_sim.runner import SimulatedRunner
from benchmarks.fleet_sim.step_times import StepTimes
from neuron_lib.admission import AdmissionController, AdmissionSnapshot, Capacity, Place, Wait, name_of
from neuron_lib.admission.configured import admission_rules
from neuron_lib.config import LlamaCppConfig
from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.line import Request
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Delta, Done, RequestClass, SequenceEvent
from neuron_lib.engine.reservation import Reservation
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan
from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.errors import ModelLoading, RequestRejected, ShuttingDown
from neuron_lib.types import Principal

__all__ = ("Call", "Host", "Listener", "State")

State: TypeAlias = Literal["serving", "draining", "gone", "silent", "loading"]
"""serving    takes requests
draining   has had its SIGTERM: `/models` says `recovering`, and running replies go on
gone       no process: every connection is refused at once
silent     no machine: nothing is answered
loading    a new process that answers polls and has no model yet
"""

_MOST_TOGETHER: Final = 64
BEGIN_LIMIT_S: Final = 120.0
"""As in `neuron_lib.llamacpp.reply`: a request for which a seat is free waits at least this long for its engine."""


class Listener(Protocol):
    """Whoever made a call. Each method is called at the simulated time of what it tells."""

    def refused(self, error: RequestRejected) -> None:
        """The host has refused the call before its first byte."""

    def began(self) -> None:
        """The call has its seat: the status 200 is sent."""

    def first_token(self) -> None:
        """The first text is there."""

    def ended(self, *, cached_tokens: int) -> None:
        """The reply is whole."""

    def lost(self) -> None:
        """The host has gone, and the call with it."""


class Call:
    """A request to a host, and how far it is there. The reply is `reply_tokens` times the token `reply_id`."""

    def __init__(self, listener: Listener, *, prompt: list[int], reply_tokens: int, reply_id: int, caller: str) -> None:
        self.listener: Final = listener
        self.prompt: Final = prompt
        self.reply_tokens: Final = reply_tokens
        self.reply_id: Final = reply_id
        self.principal: Final = Principal(caller, "") if caller else None
        self.held: Final = ExitStack()
        self.place: Place | None = None
        self.impatience: Entry | None = None
        self.has_begun: bool = False
        self.has_spoken: bool = False


class Host:
    """A host with one model. `config` is the table `[harness.llamacpp]` of its file.

    `prepare_s` is the time from the arrival of a request until it stands in the line. `note_gap` is told how long
    replies waited for their next token, and how many did. Counters are since the beginning. `ready_s` is when a host
    that is loading will serve.
    """

    def __init__(
        self,
        agenda: Agenda,
        times: StepTimes,
        *,
        name: str,
        config: LlamaCppConfig,
        prepare_s: float,
        note_gap: Callable[[float, int], None] = lambda _gap_s, _times: None,
        steps_together: int = _MOST_TOGETHER,
    ) -> None:
        self.name: Final = name
        self.busy_s: float = 0.0
        self.steps: int = 0
        self.state: State = "serving"
        self.ready_s: float = 0.0
        self._agenda: Final = agenda
        self._times: Final = times
        self._config: Final = config
        self._prepare_s: Final = prepare_s
        self._note_gap: Final = note_gap
        self._steps_together: Final = steps_together
        self._start()

    def _start(self) -> None:
        config, seats = self._config, self._config.admission.max_in_flight
        is_pool = config.kv_layout == "unified"
        pool = config.kv_cells or seats * config.n_ctx
        cells: CellAccount = PooledCells(seats, pool) if is_pool else StreamCells(seats, config.n_ctx)
        self._cells: CellAccount = cells
        self._n_ctx = min(config.n_ctx, pool)
        costs = StepCosts(target_step_s=config.target_step_ms / 1000)
        cache = PromptCache(
            seats=seats,
            cells=cells,
            costs=costs,
            is_enabled=config.prompt_cache.enabled,
            host_budget_bytes=config.prompt_cache.host_mb << 20,
        )
        self._scheduler = Scheduler(cache=cache, cells=cells, costs=costs, n_batch=config.n_batch, n_ctx=self._n_ctx)
        self._runner = SimulatedRunner(self._times, cells=cells, seats=seats, shares=cells.shares)
        capacity = Capacity(
            seats=seats,
            prompt_tokens=self._n_ctx - 1,
            cells=pool if is_pool else seats * config.n_ctx,
            cell_bytes=self._times.cell_bytes,
        )
        self._reservation = Reservation(
            cells=capacity.cells or 0, n_ctx=self._n_ctx, seats=seats, is_pool=is_pool, shares=cells.shares
        )
        self._admission = AdmissionController(admission_rules(config.admission), capacity=lambda: capacity)
        self._calls: dict[int, Call] = {}  # by the number of their place
        self._plan: StepPlan | None = None  # in progress
        self._step_end: Entry | None = None
        self._began_s = self._move_s = self._each_s = 0.0  # of the plan in progress
        self._together = 0
        self._is_closed = False
        self._load_s = 0.0

    @property
    def load(self) -> AdmissionSnapshot:
        """What `/health` says of the model."""
        return self._admission.snapshot()

    @property
    def in_hand(self) -> int:
        """Calls that are neither refused nor ended."""
        return len(self._calls)

    # ------------------------------------------------------------------------------------------- a request's way here

    def arrive(self, call: Call) -> None:
        """A request has come. It is refused at once, or stands in the line after `prepare_s`."""
        if self.state == "loading":
            left_s = max(1, math.ceil(self.ready_s - self._agenda.now_s))
            call.listener.refused(ModelLoading(self.name, "it is loading", stage="loading", retry_after_s=left_s))
            return
        if not self.is_up:
            call.listener.lost()
            return
        try:
            place = call.held.enter_context(
                self._admission.place(principal=call.principal, refuse=lambda error: self._drop(call, error))
            )
        except RequestRejected as error:
            call.listener.refused(error)
            return
        call.place = place
        self._calls[place.number] = call
        call.impatience = self._agenda.after(self._prepare_s, lambda: self._prepared(call, place))

    def _prepared(self, call: Call, place: Place) -> None:
        rules, admission = self._admission.rules, self._config.admission
        sequence = Sequence(
            request=place.number,
            prompt=call.prompt,
            max_tokens=call.reply_tokens,
            reserved_tokens=min(call.reply_tokens, admission.kv_reply_tokens),
            cache_key=self._cache_key(call),
        )
        cells = self._reservation.of((sequence,), seats=1)
        place.prepare(cells=cells)
        self._runner.replies[place.number] = call.reply_id
        self._scheduler.submit(
            Request(
                place.number,
                (sequence,),
                class_=RequestClass(principal=name_of(call.principal), most_seats=place.most_seats),
                arrived_s=self._agenda.now_s,
                cells=cells,
            )
        )
        waits_s = min(rules.max_wait_s, rules.kv_max_wait_s)
        call.impatience = self._agenda.after(waits_s, partial(self._look_again, call, place, waits_s))
        if self._plan is None:
            self._step()
        else:
            self._end_soon()

    def _cache_key(self, call: Call) -> str:
        isolates = self._config.prompt_cache.isolate_principals
        return call.principal.account_id if isolates and call.principal is not None else ""

    def _look_again(self, call: Call, place: Place, waited_s: float) -> None:
        """The request has waited so long: it may wait longer for what it waits for now, or it is refused."""
        patience_s = max(place.patience_s, BEGIN_LIMIT_S if place.waits_for is Wait.ENGINE else 0.0)
        if (left_s := patience_s - waited_s) > 0:
            call.impatience = self._agenda.after(left_s, partial(self._look_again, call, place, patience_s))
            return
        rules = self._admission.rules
        self._drop(call, place.expired(f"no seat became free within {rules.max_wait_s:g} s"))

    def _drop(self, call: Call, error: RequestRejected) -> None:
        """The request has not begun, and will not."""
        place = _placed(call)
        self._scheduler.cancel(place.number)
        self._leave(call, place)
        call.listener.refused(error)

    def _leave(self, call: Call, place: Place) -> None:
        del self._calls[place.number]
        self._runner.replies.pop(place.number, None)
        if call.impatience is not None:
            call.impatience.drop()
        call.held.close()
        self._end_if_drained()

    # ---------------------------------------------------------------------------------------------------------- steps

    def _step(self) -> None:
        now_s = self._agenda.now_s
        self._plan = plan = self._scheduler.plan(now_s)
        if plan is None:
            return
        for request in plan.began:
            call = self._calls[request.number]
            call.has_begun = True
            _placed(call).begin()
            if call.impatience is not None:
                call.impatience.drop()
            call.listener.began()
        self._together = self._equal_steps(plan)
        self._move_s = self._runner.edit(plan)
        self._each_s = self._times.step_s(plan.chunks, ahead=(self._together - 1) / 2)
        self._began_s = now_s
        self._step_end = self._agenda.at(now_s + self._move_s + self._together * self._each_s, self._stepped)

    def _equal_steps(self, plan: StepPlan) -> int:
        """How many plans from now on are like this one, if nothing comes."""
        together, cache = self._steps_together, self._scheduler.cache
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if len(chunk.tokens) > 1 or not chunk.wants_logits or not sequence.generated:
                return 1
            left = min(sequence.max_tokens - sequence.generated, self._n_ctx - len(sequence.tokens))
            together = min(together, left)
        if not cache.is_gathered:
            together = min(together, 2)  # the scheduler counts steps until it closes a gap
        if self._cells.shares:
            together = min(together, 1 + self._cells.room(0) // len(plan.chunks))
        return max(1, together)

    def _end_soon(self) -> None:
        """Somebody has come: the step in progress is the last of those taken together."""
        if self._together == 1 or self._step_end is None:
            return
        passed_s = self._agenda.now_s - self._began_s - self._move_s
        done = min(self._together, max(1, math.ceil(passed_s / self._each_s - 1e-9)))
        if done < self._together:
            self._together = done
            self._step_end.drop()
            end_s = self._began_s + self._move_s + done * self._each_s
            self._step_end = self._agenda.at(end_s, self._stepped)

    def _stepped(self) -> None:
        plan, self._plan = self._plan, None
        assert plan is not None  # there is a step that ends
        going_on = sum(1 for chunk in plan.chunks if chunk.sequence.generated)
        events = self._scheduler.apply(plan, self._runner.result(plan, times=self._together, each_s=self._each_s))
        self.steps += self._together
        self.busy_s += self._move_s + self._together * self._each_s
        if going_on:
            self._note_gap(self._move_s + self._each_s, going_on)
            if self._together > 1:
                self._note_gap(self._each_s, going_on * (self._together - 1))
        for event in events:
            self._tell(event)
        if self.is_up and self._plan is None:
            self._step()

    def _tell(self, event: SequenceEvent) -> None:
        call = self._calls[event.request]
        if not isinstance(event, Delta | Done):
            raise RuntimeError(f"a simulated request failed: {event}")  # noqa: TRY004 - it is no wrong argument
        if not call.has_spoken:
            call.has_spoken = True
            call.listener.first_token()
        if isinstance(event, Done):
            place = _placed(call)
            place.end_reply()
            self._leave(call, place)
            call.listener.ended(cached_tokens=event.cached_tokens)

    # ---------------------------------------------------------------------------------------- the life of the process

    @property
    def is_up(self) -> bool:
        """Whether it has an engine."""
        return self.state in {"serving", "draining"}

    def drain(self, *, notice_s: float, load_s: float) -> None:
        """SIGTERM: what has begun goes on, and after `notice_s` everything else is refused.

        When nothing is left the process ends. A new one has its model after `load_s`.
        """
        self.state, self._load_s = "draining", load_s
        self._agenda.after(notice_s, self._close)

    def _close(self) -> None:
        if self.state == "draining":
            self._is_closed = True
            self._admission.close(ShuttingDown)
            self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._is_closed and not self._calls:
            self._agenda.after(0.0, self._restart)

    def _restart(self) -> None:
        if self.state == "draining" and not self._calls:
            self.state, self.ready_s = "loading", self._agenda.now_s + self._load_s
            self._agenda.at(self.ready_s, self.come_back)

    def lose(self, *, is_silent: bool = False) -> None:
        """The process has gone with everything in it, or the whole machine, which then answers nothing."""
        self.state = "silent" if is_silent else "gone"
        calls = list(self._calls.values())
        self._calls.clear()
        if self._step_end is not None:
            self._step_end.drop()
        for call in calls:
            if call.impatience is not None:
                call.impatience.drop()
            call.listener.lost()

    def come_back(self) -> None:
        """A new process, whose model is loaded and which remembers nothing."""
        self.state = "serving"
        self._start()


def _placed(call: Call) -> Place:
    assert call.place is not None  # it has been let in
    return call.place
