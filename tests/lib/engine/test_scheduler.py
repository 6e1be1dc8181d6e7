import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from neuron_lib.engine.protocol import Broken, Delta, Done, SequenceEvent
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan, StepResult
from neuron_lib.testing import ScriptedRunner
from neuron_lib.types import FinishReason, Sampling


def sequence(request: int, *, prompt: int = 4, max_tokens: int = 100) -> Sequence:
    return Sequence(
        request=request, prompt=list(range(prompt)), sampling=Sampling(temperature=0, seed=0), max_tokens=max_tokens
    )


def scheduler(*, seats: int = 4, n_batch: int = 64, n_ctx: int = 512, target_step_s: float = 0.1) -> Scheduler:
    return Scheduler(seats=seats, n_batch=n_batch, n_ctx=n_ctx, target_step_s=target_step_s)


def step(sched: Scheduler, runner: ScriptedRunner) -> list[SequenceEvent]:
    plan = sched.plan()
    assert plan is not None
    return sched.apply(plan, runner.run(plan))


def shares(plan: StepPlan | None) -> dict[int, int]:
    assert plan is not None
    return {chunk.sequence.request: len(chunk.tokens) for chunk in plan.chunks}


def test_nothing_to_do_is_no_plan() -> None:
    assert scheduler().plan() is None


def test_more_seats_than_a_batch_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="9 seats"):
        scheduler(seats=9, n_batch=8)


@pytest.mark.parametrize("length", [0, 513])
def test_a_prompt_that_can_never_run_is_refused(length: int) -> None:
    sched = scheduler()
    with pytest.raises(ValueError, match="does not fit"):
        sched.submit(sequence(1, prompt=length))
    assert sched.in_flight == 0


def test_the_whole_batch_reads_prompts_while_nobody_decodes_oldest_first() -> None:
    sched = scheduler()
    for request in (1, 2, 3):
        sched.submit(sequence(request, prompt=40))
    assert shares(sched.plan()) == {1: 40, 2: 24}


def test_only_the_chunk_that_ends_a_prompt_wants_logits() -> None:
    sched, runner = scheduler(), ScriptedRunner()
    sched.submit(sequence(1, prompt=100))
    while sched.in_flight and len(runner.plans) < 3:
        step(sched, runner)
    chunks = [plan.chunks[0] for plan in runner.plans]
    assert [(c.position, len(c.tokens), c.wants_logits) for c in chunks] == [
        (0, 64, False),
        (64, 36, True),
        (100, 1, True),
    ]


def test_beside_a_running_reply_a_prompt_of_unknown_speed_gets_the_smallest_chunk() -> None:
    sched, runner = scheduler(), ScriptedRunner()
    sched.submit(sequence(1, prompt=1))
    step(sched, runner)
    sched.submit(sequence(2, prompt=60))
    assert shares(sched.plan()) == {1: 1, 2: 16}


@pytest.mark.parametrize(
    ("target_step_s", "chunk"),
    # A decode step takes 1 ms, every prompt token 1 ms: what is left of the target is what may be read.
    [(0.021, 20), (0.041, 40), (0.005, 16), (10.0, 63)],
)
def test_beside_a_running_reply_prompts_are_read_for_the_rest_of_the_target_time(
    target_step_s: float, chunk: int
) -> None:
    sched, runner = scheduler(target_step_s=target_step_s), ScriptedRunner()
    sched.submit(sequence(1, prompt=32))
    for _ in range(5):
        step(sched, runner)
    sched.submit(sequence(2, prompt=500))
    assert shares(sched.plan()) == {1: 1, 2: chunk}


def test_a_running_reply_is_in_every_step_while_another_prompt_is_read() -> None:
    sched, runner = scheduler(), ScriptedRunner()
    sched.submit(sequence(1))
    step(sched, runner)
    sched.submit(sequence(2, prompt=300))
    events = [step(sched, runner) for _ in range(10)]
    assert all(any(isinstance(e, Delta) and e.request == 1 for e in told) for told in events)


def test_who_waits_for_a_slot_gets_the_first_that_is_vacated_and_it_is_cleared_first() -> None:
    sched, runner = scheduler(seats=1), ScriptedRunner(eog_after={1: 0})
    sched.submit(sequence(1))
    sched.submit(sequence(2))
    assert [type(event) for event in step(sched, runner)] == [Done]
    plan = sched.plan()
    assert plan is not None
    assert (plan.vacated, plan.chunks[0].seq_id, plan.chunks[0].sequence.request) == ((0,), 0, 2)


def test_a_failed_step_breaks_those_in_it_and_no_others() -> None:
    sched, runner = scheduler(n_batch=8), ScriptedRunner(failures={0: "no cells left"})
    sched.submit(sequence(1, prompt=8))
    sched.submit(sequence(2, prompt=4))
    assert step(sched, runner) == [Broken(request=1, message="no cells left")]
    assert shares(sched.plan()) == {2: 4}


@pytest.mark.parametrize("when", ["waiting", "live"])
def test_a_cancelled_sequence_is_never_heard_of_again(when: str) -> None:
    sched, runner = scheduler(seats=1), ScriptedRunner()
    sched.submit(sequence(1))
    sched.submit(sequence(2))
    step(sched, runner)
    sched.cancel(1 if when == "live" else 2)
    sched.cancel(99)  # a number that nobody has
    left = 2 if when == "live" else 1
    assert shares(sched.plan()).keys() == {left}
    assert sched.in_flight == 1


def test_a_prompt_cancelled_half_read_frees_its_slot() -> None:
    sched, runner = scheduler(seats=1, n_batch=8), ScriptedRunner()
    sched.submit(sequence(1, prompt=100))
    step(sched, runner)
    sched.cancel(1)
    assert sched.slots.owners == {}
    sched.submit(sequence(2))
    plan = sched.plan()
    assert plan is not None
    assert plan.vacated == (0,)


def test_times_are_split_between_reading_and_writing() -> None:
    sched, runner = scheduler(), ScriptedRunner(duration_s=lambda _plan: 0.5)
    sched.submit(sequence(1, prompt=100, max_tokens=3))
    events = [event for _ in range(4) for event in step(sched, runner)]
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.prefill_s, done.decode_s, done.reason) == (1.0, 1.0, FinishReason.LENGTH)


class AnyTraffic(RuleBasedStateMachine):
    """Any order of submits, cancels, steps and failures, checked against what a caller may rely on."""

    @initialize(
        seats=st.integers(1, 4),
        n_batch=st.integers(4, 40),
        n_ctx=st.integers(8, 60),
        target_step_s=st.sampled_from([0.001, 0.02, 1.0]),
    )
    def begin(self, seats: int, n_batch: int, n_ctx: int, target_step_s: float) -> None:
        self.scheduler = scheduler(seats=seats, n_batch=n_batch, n_ctx=n_ctx, target_step_s=target_step_s)
        self.sequences: dict[int, Sequence] = {}
        self.open: set[int] = set()
        self.computed: dict[int, int] = {}
        self.owners: dict[int, int] = {}
        self.dirty: set[int] = set()  # slots with cells that belong to nobody
        self.decoding: set[int] = set()
        self.eog_after: dict[int, int] = {}

    @rule(prompt=st.integers(1, 60), max_tokens=st.integers(1, 12), eog_after=st.integers(0, 15))
    def submit(self, prompt: int, max_tokens: int, eog_after: int) -> None:
        request = len(self.sequences) + 1
        new = sequence(request, prompt=min(prompt, self.scheduler.n_ctx), max_tokens=max_tokens)
        self.scheduler.submit(new)
        self.sequences[request] = new
        self.open.add(request)
        self.computed[request] = 0
        self.eog_after[request] = eog_after

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.sequences)))
        self.owners = self.scheduler.slots.owners
        self.forget(request)
        self.scheduler.cancel(request)

    @rule(fails=st.integers(0, 9).map(lambda roll: roll == 0))
    def step(self, fails: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        plan = self.scheduler.plan()
        if plan is None:
            assert not self.open
            return
        self.owners = self.scheduler.slots.owners
        self.check(plan)
        if fails:
            events = self.scheduler.apply(plan, StepResult((), 0.01, "broken"))
            assert [type(event) for event in events] == [Broken] * len(plan.chunks)
        else:
            events = self.scheduler.apply(plan, ScriptedRunner(eog_after=self.eog_after).run(plan))
            for chunk in plan.chunks:
                self.computed[chunk.sequence.request] += len(chunk.tokens)
        requests = [event.request for event in events]
        assert len(set(requests)) == len(requests)
        assert self.open.issuperset(requests)
        for event in events:
            if isinstance(event, Delta):
                self.decoding.add(event.request)
            else:
                self.forget(event.request)

    def check(self, plan: StepPlan) -> None:
        requests = [chunk.sequence.request for chunk in plan.chunks]
        seq_ids = [chunk.seq_id for chunk in plan.chunks]
        assert 0 < plan.token_count <= self.scheduler.n_batch
        assert all(chunk.tokens for chunk in plan.chunks)
        assert self.open.issuperset(requests)
        assert self.decoding.issubset(requests)
        assert len(set(seq_ids)) == len(seq_ids)
        assert all(0 <= seq_id < self.scheduler.slots.size for seq_id in seq_ids)
        for seq_id in plan.vacated:
            assert seq_id in self.dirty
            self.dirty.remove(seq_id)
        assert self.dirty.isdisjoint(seq_ids)
        for chunk in plan.chunks:
            known = chunk.sequence.prompt + chunk.sequence.generated
            end = chunk.position + len(chunk.tokens)
            assert chunk.position == self.computed[chunk.sequence.request]
            assert chunk.tokens == known[chunk.position : end]
            assert chunk.wants_logits == (end == len(known))
            assert end <= self.scheduler.n_ctx

    def forget(self, request: int) -> None:
        """Note that it is over, and that its slot, if it had one, is dirty until a plan vacates it."""
        if request not in self.open:
            return
        self.open.remove(request)
        self.decoding.discard(request)
        self.dirty.update(seq_id for seq_id, owner in self.owners.items() if owner == request)

    @invariant()
    def slots_have_one_owner_who_is_open(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        owners = self.scheduler.slots.owners
        assert self.open.issuperset(owners.values())
        assert len(set(owners.values())) == len(owners)
        assert self.scheduler.in_flight == len(self.open)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # Fair stepping ends everything: each step reads a prompt token or writes one.
        most = sum(len(s.prompt) + s.max_tokens for s in self.sequences.values()) + 1
        for _ in range(most):
            self.step(fails=False)
        assert self.scheduler.in_flight == 0
        assert self.scheduler.slots.owners == {}
        assert self.scheduler.plan() is None


TestAnyTraffic = AnyTraffic.TestCase
