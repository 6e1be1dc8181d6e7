"""Any traffic, on any memory: what the scheduler plans is what libllama can do, and nobody notices the others."""

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.line import Request
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Broken, Delta, Done, SequenceEvent
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan
from neuron_lib.engine.step_costs import StepCosts
from tests.examples import examples
from tests.fakes.model_memory import ModelMemory, text_alone

# Prompts are made of a few beginnings that many share, so that prefixes meet; a few numbers, so that one that fails is
# small enough to be made smaller.
# The last one stands for media: its ids are below zero.
TEXTS = tuple([(seed * (i + 1) + i * i) % 7 for i in range(120)] for seed in range(1, 4))
BEGINNINGS = (*TEXTS, [-2 - token for token in TEXTS[0]])


class AnyTraffic(RuleBasedStateMachine):
    """Submits, cancels, steps and faults in any order."""

    is_pooled = False

    @initialize(
        seats=st.integers(1, 4),
        n_batch=st.integers(4, 80),
        n_ctx=st.integers(40, 160),
        pool=st.floats(1.0, 3.0),
        can_truncate=st.booleans(),
        is_enabled=st.sampled_from([True, True, True, False]),
        host_budget=st.sampled_from([0, 40, 150, 1000]),
        target_step_s=st.sampled_from([0.001, 0.05, 1.0]),
        length=st.sampled_from([7, 50, 10_000]),
        shares=st.booleans(),
        speculation=st.sampled_from(["auto", "on", "off"]),
    )
    def begin(
        self,
        *,
        seats: int,
        n_batch: int,
        n_ctx: int,
        pool: float,
        can_truncate: bool,
        is_enabled: bool,
        host_budget: int,
        target_step_s: float,
        length: int,
        shares: bool,
        speculation: str,
    ) -> None:
        capacity = int(n_ctx * pool) if self.is_pooled else n_ctx
        self.cells: CellAccount = StreamCells(seats, capacity)
        if self.is_pooled:
            self.cells = PooledCells(seats, capacity, shares=shares)
        costs = StepCosts(target_step_s=target_step_s)
        self.cache = PromptCache(
            seats=seats,
            cells=self.cells,
            costs=costs,
            is_enabled=is_enabled,
            can_truncate=can_truncate,
            host_budget_bytes=host_budget,
        )
        self.scheduler = Scheduler(
            cache=self.cache,
            cells=self.cells,
            costs=costs,
            n_batch=n_batch,
            n_ctx=n_ctx,
            speculation=speculation if can_truncate else "off",
        )
        self.memory = ModelMemory(
            seats=seats,
            cells=capacity,
            is_pooled=self.is_pooled,
            shares=self.cells.shares,
            can_truncate=can_truncate,
            length=length,
        )
        self.is_enabled, self.length, self.host_budget = is_enabled, length, host_budget
        self.sequences: dict[tuple[int, int], Sequence] = {}
        self.open: set[tuple[int, int]] = set()
        self.submitted: dict[int, int] = {}  # seats of those that have not begun, by request, in order of arrival
        self.requests = 0
        self.was_shrunk = False

    @rule(
        beginning=st.integers(0, len(BEGINNINGS) - 1),
        shared=st.integers(0, 120),
        tail=st.integers(0, 20),
        variant=st.integers(0, 2),
        max_tokens=st.integers(1, 30),
        choices=st.sampled_from([1, 1, 1, 3]),
        cache_key=st.sampled_from(["", "", "other"]),
        marks=st.lists(st.integers(1, 140), max_size=2),
    )
    def submit(
        self,
        *,
        beginning: int,
        shared: int,
        tail: int,
        variant: int,
        max_tokens: int,
        choices: int,
        cache_key: str,
        marks: list[int],
    ) -> None:
        self.requests += 1
        ending = [(variant + i * i) % 5 for i in range(tail)]
        prompt = (BEGINNINGS[beginning][:shared] + ending)[: self.scheduler.n_ctx] or [1]
        choices = min(choices, len(self.cache.slots))
        sequences = tuple(
            Sequence(
                request=self.requests,
                choice=choice,
                prompt=prompt,
                max_tokens=max_tokens,
                cache_key=cache_key,
                checkpoint_at=tuple(sorted({at for at in marks if at < len(prompt)})),
            )
            for choice in range(choices)
        )
        self.submitted[self.requests] = choices
        self.scheduler.submit(Request(self.requests, sequences, choices))
        for sequence in sequences:
            self.sequences[self.requests, sequence.choice] = sequence
            self.open.add((self.requests, sequence.choice))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request, _ = data.draw(st.sampled_from(sorted(self.open)))
        self.scheduler.cancel(request)
        self.close(request)

    @rule(fault=st.sampled_from([None, None, None, None, None, "no cells", "failed", "lost", "full"]))
    def step(self, fault: str | None) -> None:
        plan = self.scheduler.plan(0.0)
        if plan is None:
            assert not self.open
            return
        self.check(plan)
        self.memory.fault = fault
        self.was_shrunk |= fault == "no cells"
        result = self.memory.run(plan)
        self.take(self.scheduler.apply(plan, result))

    def check_beginnings(self, plan: StepPlan) -> None:
        waiting = [request for request in self.submitted if any(key[0] == request for key in self.open)]
        began = [request.number for request in plan.began]
        assert began == waiting[: len(began)], "somebody was overtaken"
        for request in began:
            del self.submitted[request]
        running = [key for key in self.open if key[0] not in self.submitted]
        assert len(running) <= len(self.cache.slots), "more seats than there are were given"
        assert {(chunk.sequence.request, chunk.sequence.choice) for chunk in plan.chunks}.issubset(running)
        if not self.is_pooled and not self.was_shrunk:  # else cells may be what keeps somebody waiting
            left = len(self.cache.slots) - len(running)
            after = [request for request in waiting if request in self.submitted]
            assert not after or self.submitted[after[0]] > left, "a seat is left empty"

    def check(self, plan: StepPlan) -> None:
        self.check_beginnings(plan)
        owners = {sequence.seq_id: key for key, sequence in self.sequences.items() if sequence.seq_id is not None}
        planned = [(chunk.sequence.request, chunk.sequence.choice) for chunk in plan.chunks]
        decoding = {key for key in owners.values() if self.sequences[key].remaining == 1}
        assert 0 < plan.token_count <= self.scheduler.n_batch
        assert all(chunk.tokens for chunk in plan.chunks)
        assert len(set(planned)) == len(planned)
        assert self.open.issuperset(planned)
        assert decoding.issubset(planned)
        for chunk in plan.chunks:
            known = chunk.sequence.tokens
            end = chunk.position + len(chunk.tokens) - chunk.drafted
            assert owners[chunk.seq_id] == (chunk.sequence.request, chunk.sequence.choice)
            assert chunk.position == chunk.sequence.computed
            assert chunk.tokens[: end - chunk.position] == known[chunk.position : end]
            assert chunk.wants_logits == (end == len(known))

    def take(self, events: list[SequenceEvent]) -> None:
        told: set[tuple[int, int]] = set()
        for event in events:
            if isinstance(event, Broken):
                assert any(request == event.request for request, _ in self.open)
                self.close(event.request)
                continue
            key = event.request, event.choice
            assert key in self.open
            assert key not in told
            told.add(key)
            sequence = self.sequences[key]
            alone = text_alone(
                sequence.prompt, max_tokens=sequence.max_tokens, n_ctx=self.scheduler.n_ctx, length=self.length
            )
            written = sequence.tokens[len(sequence.prompt) :]
            if isinstance(event, Delta):
                assert written == alone[: len(written)]
            else:
                assert isinstance(event, Done)
                assert written == alone
                assert event.completion_tokens == len(alone)
                assert 0 <= event.cached_tokens < len(sequence.prompt)
                self.open.discard(key)

    def close(self, request: int) -> None:
        self.open = {key for key in self.open if key[0] != request}

    @invariant()
    def accounts_balance(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        seated = [slot.sequence for slot in self.cache.slots if slot.sequence is not None]
        assert {(s.request, s.choice) for s in seated}.issubset(self.open)
        assert self.scheduler.in_flight == len(self.open)
        assert all(slot.length == self.cells.length(slot.seq_id) for slot in self.cache.slots)
        assert self.cache.store.nbytes <= self.host_budget

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # Fair stepping ends everything: who is oldest gets on with every step.
        most = 10 + 3 * sum(len(s.prompt) + s.max_tokens for s in self.sequences.values())
        for _ in range(most):
            self.step(fault=None)
            if not self.open:
                break
        assert self.scheduler.in_flight == 0
        assert self.scheduler.plan(0.0) is None
        # One more sequence makes the runner do what is still to be done; then memory and accounts must agree.
        last = Sequence(request=self.requests + 1, prompt=[9], max_tokens=1)
        self.sequences[self.requests + 1, 0] = last
        self.open.add((self.requests + 1, 0))
        self.submitted[self.requests + 1] = 1
        self.scheduler.submit(Request(self.requests + 1, (last,)))
        self.step(fault=None)
        for slot in self.cache.slots:
            assert self.memory.tokens(slot.seq_id)[: slot.length] == slot.tokens
        if isinstance(self.cells, PooledCells):
            trimmed = sum(len(self.memory.tokens(slot.seq_id)) - slot.length for slot in self.cache.slots)
            assert self.memory.used - trimmed == self.cells.used
        if not self.is_enabled:
            assert all(self.cells.length(slot.seq_id) == 0 for slot in self.cache.slots)


class AnyTrafficInAPool(AnyTraffic):
    """The same with one pool of cells for all."""

    is_pooled = True


TestStreams = AnyTraffic.TestCase
TestPool = AnyTrafficInAPool.TestCase
TestStreams.settings = TestPool.settings = settings(
    max_examples=examples(200),
    stateful_step_count=60,
    deadline=None,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),  # to explain a failure would take minutes
)
