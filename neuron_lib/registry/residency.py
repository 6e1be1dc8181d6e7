"""Acts on the decisions of `making_room`: keeps the line of loads that wait, begins them, and unloads idle models.

Owns the line, the memory that each model was counted with, and the pauses after failed loads. The models themselves
belong to `HostedModels`.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from neuron_lib.changes import Changes
from neuron_lib.errors import (
    InvalidRequest,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PreflightKind,
    ShuttingDown,
    cause_chain,
)
from neuron_lib.logs import get_logger
from neuron_lib.registry.cool_down import CoolDowns
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.hosted_models import HostedModels
from neuron_lib.registry.making_room import Needs, Refusal, Resident, Wanted, decide, idle_too_long
from neuron_lib.registry.phases import Event, Phase
from neuron_lib.registry.progress import retry_after_s
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.shown import clip
from neuron_lib.types import ModelSpec, ResidencyCounts, public_id

__all__ = ("COOLING_DOWN", "Residency")

logger = get_logger(__name__)

COOLING_DOWN: Final = "cooling_down"
"""The `stage` of a `ModelLoading` that says that the last load failed and the next one may not begin yet."""

_INTEREST_S: Final = 120.0
"""A load that waits for room is given up when nobody has asked for it for so long. No Retry-After is longer."""
_ROOM_LIMIT_S: Final = 600.0
"""The longest that a caller of a load waits for room."""
_MEASURING_LIMIT_S: Final = 120.0
"""The longest that a harness may take to say how much memory a model needs."""
_AGAIN_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Demand:
    """One load that waits for its turn. `outcome` is the load when it has begun, or why it never will."""

    spec: ModelSpec
    model_id: str
    may_displace: bool
    asked_s: float
    needs: Needs | None = None
    """None until the harness has said it."""
    outcome: HostedModel | NeuronError | None = None


class Residency:
    """Who may be resident on one host. Lives as long as its registry, in one task of the registry.

    Methods without `async` never wait.
    """

    def __init__(
        self,
        rules: ResidencyRules,
        *,
        models: HostedModels,
        start: Callable[[ModelSpec], HostedModel],
        need_of: Callable[[ModelSpec], Awaitable[Needs]],
        capacity: Callable[[], Needs],
        clock: Callable[[], float],
    ) -> None:
        """`start` begins a load. `need_of` says the bytes that a load will take on each device.

        `capacity` says the bytes that all models together may take on each device. `clock` gives seconds.
        """
        self.rules = rules
        self._models = models
        self._start = start
        self._need_of = need_of
        self._capacity = capacity
        self._clock = clock
        self._cool_downs = CoolDowns(first_s=rules.cool_down_s)
        self._line: dict[str, _Demand] = {}
        """The loads that wait, by public id, in the order in which they came."""
        self._unmeasured: list[_Demand] = []
        self._waiting: Counter[str] = Counter()
        """Callers that wait for a load of the line, by id."""
        self._begun: dict[str, _Demand] = {}
        """How each load was counted, by the id of its model, from its start until the memory of the model is back."""
        self._yielding: frozenset[str] = frozenset()
        self._unloaded_for_room = 0
        self._unloaded_idle = 0
        self._is_closed = False
        self._is_running = False
        self._changes = Changes()

    def replace(self, rules: ResidencyRules) -> None:
        """Decide by `rules` from now on. The caller runs `run` again, which may have had nothing to do so far.

        The first pause after a failed load stays that of the first rules.
        """
        self.rules = rules
        self._changes.notify()

    # ------------------------------------------------------------------------------------------------ what is asked

    def counts(self) -> ResidencyCounts:
        """What was done so far, and how many loads wait."""
        return ResidencyCounts(
            waiting_loads=len(self._line),
            unloaded_for_room=self._unloaded_for_room,
            unloaded_idle=self._unloaded_idle,
        )

    def can_load(self, model_id: str) -> bool:
        """Whether a request to this model would load it."""
        return not self._is_closed and self.rules.loadable(model_id) is not None

    def admits(self, model: HostedModel) -> bool:
        """Whether a serving model takes further requests. It does not while it makes room for another model."""
        return model.model_id not in self._yielding

    def require_keep_alive(self, keep_alive_s: float | None) -> None:
        """Raises `InvalidRequest` if the host cannot do what a request asks for. None asks for nothing.

        A client may make a model go early only on a host that loads it again by itself.
        """
        if keep_alive_s is None or self.rules.makes_room or (self.rules.do_nothing and math.isinf(keep_alive_s)):
            return
        text = "keep_alive: this host does not load models on demand, and no request says how long they stay"
        raise InvalidRequest(text, param="keep_alive", summary=text)

    def want(self, model_id: str) -> None:
        """Somebody asks for this model. Puts its load into the line, if the model is one on demand and is not here."""
        spec = self.rules.loadable(model_id)
        if spec is None or self._is_closed:
            return
        model = self._models.find(model_id)
        if model is not None and (model.is_loading or (model.serves and self.admits(model))):
            return
        id_ = public_id(spec.model_id)
        if self._cool_downs.now(id_, now_s=self._clock()) is None:
            self._join(spec, may_displace=True)

    @contextmanager
    def waiting(self, model_id: str) -> Iterator[None]:
        """Within the block a caller waits for the model, so its load stays in the line."""
        spec = self.rules.loadable(model_id)
        id_ = public_id(model_id if spec is None else spec.model_id)
        self._waiting[id_] += 1
        try:
            yield
        finally:
            self._waiting[id_] -= 1
            if not self._waiting[id_]:
                del self._waiting[id_]
            if (demand := self._line.get(id_)) is not None:
                demand.asked_s = self._clock()

    async def turn(self, spec: ModelSpec, *, may_displace: bool) -> tuple[HostedModel, bool]:
        """Wait for the turn of a load. Returns the load that has begun, and whether it is this caller's own.

        Without `may_displace` no model is unloaded for it. Raises why the load cannot begin, and `Overloaded` if it
        could not for 600 s.
        """
        if self._is_closed:
            raise ShuttingDown
        id_ = public_id(spec.model_id)
        is_own = id_ not in self._line
        demand = self._join(spec, may_displace=may_displace)
        with self.waiting(id_), anyio.move_on_after(_ROOM_LIMIT_S):
            await self._changes.until(lambda: demand.outcome is not None)
        match demand.outcome:
            case HostedModel() as model:
                return model, is_own
            case None:
                raise Overloaded(
                    f"there was no room for model {clip(id_)!r} for {_ROOM_LIMIT_S:g} s",
                    reason=OverloadReason.NO_ROOM,
                    retry_after_s=retry_after_s(None),
                    model_id=id_,
                )
            case error:
                raise error

    def explain(self, model_id: str) -> ModelLoading | ModelNotLoaded | None:
        """The refusal of a request to a model that does not serve, and is not being loaded. None if nothing here
        concerns it.
        """
        spec = self.rules.loadable(model_id)
        id_ = public_id(model_id if spec is None else spec.model_id)
        if id_ in self._line:
            return ModelLoading(
                model_id, "it is loaded as soon as there is room", stage="pending", retry_after_s=retry_after_s(None)
            )
        cool_down = None if spec is None else self._cool_downs.now(id_, now_s=self._clock())
        if cool_down is not None:
            left_s = retry_after_s(math.ceil(cool_down.until_s - self._clock()))
            return ModelLoading(
                model_id,
                f"its last load failed, and the next one may begin in {left_s} s: {cool_down.reason}",
                stage=COOLING_DOWN,
                retry_after_s=left_s,
                attempt=cool_down.failures,
            )
        if id_ in self._yielding:
            return ModelNotLoaded(model_id, "it makes room for another model")
        return None

    # --------------------------------------------------------------------------------------------- what has happened

    def note(self, model: HostedModel) -> None:
        """A model has changed. Called after each change of each model."""
        if model.serves:
            self._cool_downs.succeed(model.model_id)
        elif model.phase is Phase.GONE:
            begun = self._begun.pop(model.model_id, None)
            reason = model.loss or (None if model.load_failure is None else cause_chain(model.load_failure))
            if reason is not None and not self._may_try_with_more_room(begun, model.load_failure):
                self._cool_downs.fail(model.model_id, reason, now_s=self._clock())
        self._changes.notify()

    def is_waiting(self, spec: ModelSpec) -> bool:
        """Whether a load of this model waits for its turn."""
        return public_id(spec.model_id) in self._line

    def look_again(self) -> None:
        """A model has become idle."""
        self._changes.notify()

    def close(self) -> None:
        """The host admits no more loads. Loads that wait end with `ShuttingDown`."""
        self._is_closed = True
        for demand in tuple(self._line.values()):
            self._end(demand, ShuttingDown())
        self._changes.notify()

    # --------------------------------------------------------------------------------------------------- its own task

    async def run(self) -> None:
        """Decide and act after each change, until `close`. Does nothing if it runs already."""
        if self.rules.do_nothing or self._is_running:
            return
        self._is_running = True
        async with anyio.create_task_group() as tasks:
            while not self._is_closed:
                changed = self._changes.next
                self._measure_all(tasks)
                try:
                    next_s = self._settle()
                except Exception:  # a bug in one decision must not keep the next one from being made
                    logger.exception("bug in a decision about residency")
                    next_s = self._clock() + _AGAIN_S
                with anyio.move_on_after(None if next_s is None else max(0.0, next_s - self._clock())):
                    await changed.wait()
            tasks.cancel_scope.cancel()

    def _settle(self) -> float | None:
        """Decide, and act. Returns when to look again if nothing changes."""
        now_s = self._clock()
        due_s = self._drop_stale(now_s)
        demands = [demand for demand in self._line.values() if demand.needs is not None]
        specs = [*(model.spec for model in self._models.values()), *(demand.spec for demand in demands)]
        decision = decide(
            [
                Wanted(model_id=each.model_id, needs=each.needs or {}, may_displace=each.may_displace)
                for each in demands
            ],
            self._residents(),
            self.rules.house(self._capacity(), specs),
            now_s=now_s,
        )
        for model_id, refusal in decision.refused.items():
            self._refuse(self._line[model_id], refusal)
        for model_id in decision.start:
            if not self._begin(self._line[model_id]):
                due_s.append(now_s + _AGAIN_S)
        for model_id, wanted in decision.evict.items():
            logger.info("unloading an idle model to make room", extra={"model_id": model_id, "for_model": wanted})
            self._unloaded_for_room += 1
            self._models[model_id].move(Event.UNLOADED)
        if decision.yielding != self._yielding:
            self._yield(decision.yielding)
        over, idle_due_s = idle_too_long(self._residents(), now_s=now_s)
        for model_id in over:
            idle_s = round(now_s - self._models[model_id].used_s, 1)
            logger.info("unloading an idle model", extra={"model_id": model_id, "idle_s": idle_s})
            self._unloaded_idle += 1
            self._models[model_id].move(Event.UNLOADED)
        due_s += [each_s for each_s in (decision.next_s, idle_due_s) if each_s is not None]
        return min(due_s, default=None)

    def _residents(self) -> list[Resident]:
        return [self._as_resident(model) for model in self._models.values()]

    def _as_resident(self, model: HostedModel) -> Resident:
        rules, begun = self.rules.of(model.spec), self._begun.get(model.model_id)
        return Resident(
            model_id=model.model_id,
            needs={} if begun is None else begun.needs or {},
            loaded_s=model.served_s,
            used_s=model.used_s,
            is_busy=model.leases.count > 0,
            is_pinned=rules.is_pinned,
            is_leaving=model.is_leaving,
            idle_limit_s=self._idle_limit_s(model, rules.idle_limit_s),
        )

    def _idle_limit_s(self, model: HostedModel, usual_s: float | None) -> float | None:
        """What the last request asked for counts, but no request makes a model go before the minimum residence."""
        if model.keep_alive_s is None or model.served_s is None:
            return usual_s
        if math.isinf(model.keep_alive_s):
            return None
        return max(model.keep_alive_s, model.served_s + self.rules.min_resident_s - model.used_s)

    def _yield(self, yielding: frozenset[str]) -> None:
        for model_id in sorted(yielding - self._yielding):
            logger.info("model makes room and takes no further requests", extra={"model_id": model_id})
        self._yielding = yielding
        self._models.changes.notify()

    # -------------------------------------------------------------------------------------------------------- the line

    def _join(self, spec: ModelSpec, *, may_displace: bool) -> _Demand:
        id_ = public_id(spec.model_id)
        demand = self._line.get(id_)
        if demand is None:
            if len(self._line) >= self._models.limits.max_loads:
                raise Overloaded(
                    f"{len(self._line)} loads wait on this host, and it takes no more",
                    reason=OverloadReason.TOO_MANY_LOADS,
                    retry_after_s=retry_after_s(None),
                    model_id=id_,
                )
            demand = self._line[id_] = _Demand(spec, id_, may_displace, self._clock())
            self._unmeasured.append(demand)
            self._tell()
        demand.asked_s = self._clock()
        demand.may_displace |= may_displace
        return demand

    def _drop_stale(self, now_s: float) -> list[float]:
        """Give up the loads that nobody has asked for lately. Returns when the others will be so."""
        due_s = []
        for demand in tuple(self._line.values()):
            if self._waiting[demand.model_id]:
                continue
            stale_s = demand.asked_s + _INTEREST_S
            if stale_s <= now_s:
                logger.info("load given up, nobody asks for it any more", extra={"model_id": demand.model_id})
                self._end(demand, ModelNotLoaded(demand.model_id))
            else:
                due_s.append(stale_s)
        return due_s

    def _measure_all(self, tasks: TaskGroup) -> None:
        for demand in self._unmeasured:
            tasks.start_soon(self._measure, demand)
        self._unmeasured.clear()

    async def _measure(self, demand: _Demand) -> None:
        needs: Needs | None = None
        try:
            with anyio.move_on_after(_MEASURING_LIMIT_S):
                needs = await self._need_of(demand.spec)
        except NeuronError as error:
            if demand.outcome is None:
                self._fail(demand, error)
            return
        except Exception:  # a harness with a bug must not take the other models with it
            logger.exception("bug in the memory need of a model", extra={"model_id": demand.model_id})
        if not needs:
            logger.warning("memory need of a model is not known, no room is made", extra={"model_id": demand.model_id})
        demand.needs = needs or {}
        self._changes.notify()

    def _begin(self, demand: _Demand) -> bool:
        """Begin the load. Returns False if it must wait because too many other loads are under way."""
        try:
            model = self._start(demand.spec)
        except Overloaded:
            return False
        except NeuronError as error:
            self._fail(demand, error)
            return True
        self._begun[model.model_id] = demand
        self._end(demand, model)
        return True

    def _may_try_with_more_room(self, begun: _Demand | None, failure: NeuronError | None) -> bool:
        """Put a load back into the line that its harness refused for want of memory, if a model can go for it.

        The harness has measured, and less is free than was counted. So the load is counted as if it took all that the
        others leave and a byte more.
        """
        if begun is None or not begun.may_displace or self._is_closed or not _wants_memory(failure):
            return False
        residents, capacity = self._residents(), self._capacity()
        needs = dict(begun.needs or {})
        for device in needs.keys() & capacity.keys():
            left = capacity[device] - sum(each.needs.get(device, 0) for each in residents)
            needs[device] = max(needs[device], left + 1)
        may_go = [each for each in residents if not each.is_pinned]
        if not any(each.needs.get(device) for each in may_go for device in needs.keys() & capacity.keys()):
            return False
        demand = _Demand(begun.spec, begun.model_id, may_displace=True, asked_s=self._clock(), needs=needs)
        self._line[demand.model_id] = demand
        logger.warning("less memory is free than was counted, more room is made", extra={"model_id": demand.model_id})
        self._tell()
        return True

    def _refuse(self, demand: _Demand, refusal: Refusal) -> None:
        text = f"model {clip(demand.model_id)!r} does not fit on this host: {refusal.reason}"
        fields: dict[str, str | int] = {}
        if refusal.device:
            fields = {
                "device": refusal.device,
                "needed_bytes": refusal.needed_bytes,
                "free_bytes": refusal.free_bytes,
                "needed_mb": math.ceil(refusal.needed_bytes / (1 << 20)),
                "free_mb": refusal.free_bytes >> 20,
            }
        error = PreflightFailed(PreflightKind.INSUFFICIENT_MEMORY, text, model_id=demand.model_id, **fields)
        self._fail(demand, error)

    def _fail(self, demand: _Demand, error: NeuronError) -> None:
        logger.warning("load cannot begin: %s", error.log_message, extra={"model_id": demand.model_id})
        self._cool_downs.fail(demand.model_id, cause_chain(error), now_s=self._clock())
        self._end(demand, error)

    def _end(self, demand: _Demand, outcome: HostedModel | NeuronError) -> None:
        demand.outcome = outcome
        if self._line.get(demand.model_id) is demand:
            del self._line[demand.model_id]
        self._tell()

    def _tell(self) -> None:
        """The line has changed: callers of loads and chats that wait look again."""
        self._changes.notify()
        self._models.changes.notify()


def _wants_memory(failure: NeuronError | None) -> bool:
    return isinstance(failure, PreflightFailed) and failure.kind is PreflightKind.INSUFFICIENT_MEMORY
