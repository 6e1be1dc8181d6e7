"""Scheduler, prompt cache, cells and a `ModelMemory`, put together as in the engine, with a record of what happened."""

from typing import Any

from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from neuron_lib.engine.line import Request
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Done, RequestClass, SequenceEvent
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan
from neuron_lib.engine.step_costs import StepCosts
from tests.fakes.model_memory import ModelMemory, text_alone


class SmallEngine:
    """`pool` is the number of cells that all share, None for streams of `n_ctx` cells each."""

    def __init__(
        self,
        *,
        seats: int = 4,
        n_batch: int = 64,
        n_ctx: int = 512,
        pool: int | None = None,
        shares: bool = True,
        can_truncate: bool = True,
        is_enabled: bool = True,
        host_budget_bytes: int = 0,
        target_step_s: float = 0.1,
        speculation: str = "off",
        length: int = 1 << 30,
    ) -> None:
        self.cells: CellAccount = StreamCells(seats, n_ctx) if pool is None else PooledCells(seats, pool, shares=shares)
        self.costs = StepCosts(target_step_s=target_step_s)
        self.cache = PromptCache(
            seats=seats,
            cells=self.cells,
            costs=self.costs,
            is_enabled=is_enabled,
            can_truncate=can_truncate,
            host_budget_bytes=host_budget_bytes,
        )
        self.scheduler = Scheduler(
            cache=self.cache,
            cells=self.cells,
            costs=self.costs,
            n_batch=n_batch,
            n_ctx=n_ctx,
            speculation=speculation,
        )
        self.memory = ModelMemory(
            seats=seats,
            cells=n_ctx if pool is None else pool,
            is_pooled=pool is not None,
            shares=self.cells.shares,
            can_truncate=can_truncate,
            length=length,
        )
        self.now_s = 0.0
        self.plans: list[StepPlan] = []
        self.events: list[SequenceEvent] = []
        self.sequences: dict[int, list[Sequence]] = {}
        self._length = length

    @property
    def computed(self) -> int:
        """Tokens in all batches so far."""
        return sum(plan.token_count for plan in self.plans)

    def submit(
        self, request: int, prompt: list[int], *, max_tokens: int = 10, choices: int = 1, **fields: Any
    ) -> Sequence:
        """Queue the choices of a request; the first of them."""
        self.sequences[request] = [
            Sequence(request=request, choice=choice, prompt=prompt, max_tokens=max_tokens, **fields)
            for choice in range(choices)
        ]
        adapter = self.sequences[request][0].adapter
        self.scheduler.submit(
            Request(
                request, tuple(self.sequences[request]), choices, RequestClass(adapter=adapter), arrived_s=self.now_s
            )
        )
        return self.sequences[request][0]

    def plan(self) -> StepPlan:
        """The next plan, which must be there; whoever asks for it must `run` it."""
        plan = self.scheduler.plan(self.now_s)
        assert plan is not None
        self.plans.append(plan)
        return plan

    def run(self, plan: StepPlan, *, fault: str | None = None) -> list[SequenceEvent]:
        """Compute the plan, with the fault that `ModelMemory` knows by that name."""
        self.memory.fault = fault
        events = self.scheduler.apply(plan, self.memory.run(plan))
        self.events += events
        assert [slot.length for slot in self.cache.slots] == [self.cells.length(s.seq_id) for s in self.cache.slots]
        return events

    def step(self, *, fault: str | None = None) -> list[SequenceEvent]:
        """One step, for which there must be work."""
        return self.run(self.plan(), fault=fault)

    def finish(self, *, most_steps: int = 2000) -> None:
        """Step until nobody is left."""
        for _ in range(most_steps):
            if not self.scheduler.in_flight:
                return
            self.step()
        raise AssertionError(f"still not finished after {most_steps} steps: {self.scheduler!r}")

    def answer(self, request: int, prompt: list[int], **fields: Any) -> Done:
        """Submit a request for one choice and run it, and all others, to its end."""
        self.submit(request, prompt, **fields)
        self.finish()
        return self.done(request)

    def done(self, request: int, *, choice: int = 0) -> Done:
        """The last event of a choice."""
        (done,) = [e for e in self.events if isinstance(e, Done) and (e.request, e.choice) == (request, choice)]
        return done

    def told(self, request: int) -> list[str]:
        """The names of a request's events."""
        return [type(event).__name__ for event in self.events if event.request == request]

    def is_alone(self, request: int) -> bool:
        """Whether each finished choice of the request is what it would have been on an idle machine."""
        return all(
            sequence.tokens[len(sequence.prompt) :]
            == text_alone(
                sequence.prompt, max_tokens=sequence.max_tokens, n_ctx=self.scheduler.n_ctx, length=self._length
            )
            for sequence in self.sequences[request]
        )


def shares(plan: StepPlan) -> dict[int, int]:
    """Tokens that each request gets."""
    return {chunk.sequence.request: len(chunk.tokens) for chunk in plan.chunks}
