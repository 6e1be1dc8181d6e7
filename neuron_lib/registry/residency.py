"""Acts on the decisions of `making_room`: keeps the line of loads that wait, begins them, and unloads idle models.

Owns the line, the memory that each model was counted with, and the pauses after failed loads. The models themselves
belong to `HostedModels`.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup

from neuron_lib.changes import Changes
from neuron_lib.errors import (
    InvalidRequest,
    LoadCancelled,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PreflightKind,
    ShuttingDown,
)
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.cool_down import CoolDowns, lacks_memory
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.hosted_models import HostedModels
from neuron_lib.registry.load_line import LoadLine, WaitingLoad
from neuron_lib.registry.making_room import Needs, Refusal, Resident, decide, idle_too_long
from neuron_lib.registry.phases import Event
from neuron_lib.registry.progress import retry_after_s
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.shown import clip
from neuron_lib.types import ModelPhase, ModelSpec, ResidencyCounts, public_id

__all__ = ("COOLING_DOWN", "NotServing", "Residency")

logger: FieldLogger = get_logger(__name__)

COOLING_DOWN: Final = "cooling_down"
"""The `stage` of a `ModelLoading` that says that the last load failed and the next one may not begin yet."""

NotServing: TypeAlias = ModelNotLoaded | PreflightFailed
"""Why a model does not serve. `PreflightFailed` says that it needs more memory than it can get."""

_ROOM_LIMIT_S: Final = 600.0
"""The longest that a caller of a load waits for room."""
_MEASURING_LIMIT_S: Final = 120.0
"""The longest that a harness may take to say how much memory a model needs."""
_AVAILABLE_LIMIT_S: Final = 5.0
_AGAIN_S: Final = 1.0


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
        available: Callable[[], Awaitable[Needs]],
        clock: Callable[[], float],
    ) -> None:
        """`start` begins a load. `need_of` says the bytes that a load will take on each device.

        `capacity` says the bytes that all models together may take on each device, and `available` measures how much
        they could take. `clock` gives seconds.
        """
        self.rules: ResidencyRules = rules
        self._models = models
        self._start = start
        self._need_of = need_of
        self._capacity = capacity
        self._available = available
        self._clock = clock
        self._cool_downs = CoolDowns(first_s=rules.cool_down_s)
        self._line = LoadLine(clock=clock, on_change=self._tell)
        self._unmeasured: list[WaitingLoad] = []
        self._begun: dict[str, WaitingLoad] = {}
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

    async def limits(self) -> Needs:
        """The bytes that all models together can take on each device now. Empty if loads do not ask for that."""
        return await self._room() if self.rules.makes_room else {}

    async def _room(self) -> Needs:
        """The bytes that all models together can take on each device now: what they may, or less if other programs have
        memory.

        The memory of a model that is leaving is neither free nor counted for a moment, so nothing is measured then.
        """
        allowed = self._capacity()
        if self._is_any_leaving():
            return allowed
        measured: Needs = {}
        try:
            with anyio.move_on_after(_AVAILABLE_LIMIT_S):
                measured = await self._available()
        except Exception:  # a host that cannot be measured goes by its limits
            logger.exception("bug in the measurement of the memory that is available")
        if self._is_any_leaving():
            return allowed
        return {device: min(limit, measured.get(device, limit)) for device, limit in allowed.items()}

    def _is_any_leaving(self) -> bool:
        return any(model.is_leaving for model in self._models.values())

    def can_load(self, model_id: str) -> bool:
        """Whether a request to this model would load it."""
        return not self._is_closed and self.rules.loadable(model_id) is not None

    def absent_on_demand(self) -> tuple[str, ...]:
        """The ids of the models on demand that do not serve."""
        if self._is_closed:
            return ()
        absent = (spec for spec in self.rules.on_demand if not self._serves(spec))
        return tuple(public_id(spec.model_id) for spec in absent)

    def _serves(self, spec: ModelSpec) -> bool:
        model = self._models.find_same(spec)
        return model is not None and model.serves

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

    def waiting(self, model_id: str) -> AbstractContextManager[None]:
        """Within the block a caller waits for the model, so its load stays in the line."""
        return self._line.waited_for(self._line_id(model_id))

    def _line_id(self, model_id: str) -> str:
        """The id under which the load of a model is in the line."""
        spec = self.rules.loadable(model_id)
        return public_id(model_id if spec is None else spec.model_id)

    def give_up(self, model_id: str) -> bool:
        """Somebody unloads the model. Returns whether a load of it waited, which it does no longer."""
        load = self._line.get(self._line_id(model_id))
        if load is None:
            return False
        text = f"the load of {clip(load.model_id)!r} was cancelled before it had begun"
        self._line.end(load, LoadCancelled(text, model_id=load.model_id))
        return True

    async def turn(self, spec: ModelSpec, *, may_displace: bool) -> tuple[HostedModel, bool]:
        """Wait for the turn of a load. Returns the load that has begun, and whether it is this caller's own.

        Without `may_displace` no model is unloaded for it. Raises why the load cannot begin, and `Overloaded` if it
        could not for 600 s.
        """
        if self._is_closed:
            raise ShuttingDown
        id_ = public_id(spec.model_id)
        is_own = id_ not in self._line
        load = self._join(spec, may_displace=may_displace)
        with self._line.waited_for(id_), anyio.move_on_after(_ROOM_LIMIT_S):
            await self._changes.until(lambda: load.outcome is not None)
        match load.outcome:
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

    def explain(self, model_id: str) -> NotServing | None:
        """The refusal of a request to a model that does not serve, and is not being loaded. None if nothing here
        concerns it.
        """
        id_ = self._line_id(model_id)
        if id_ in self._line:
            return ModelLoading(
                model_id, "it is loaded as soon as there is room", stage="pending", retry_after_s=retry_after_s(None)
            )
        cool_down = self._cool_downs.now(id_, now_s=self._clock()) if self.can_load(model_id) else None
        if cool_down is not None and (lack := cool_down.lack) is not None:
            # A new one each time, because an error that is raised again keeps all its tracebacks.
            return PreflightFailed(lack.kind, lack.message, **lack.fields)
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
        elif model.phase is ModelPhase.GONE:
            begun = self._begun.pop(model.model_id, None)
            cause = model.loss or model.load_failure
            if cause is not None and not self._may_try_with_more_room(begun, model.load_failure):
                self._cool_downs.fail(model.model_id, cause, now_s=self._clock())
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
        for load in tuple(self._line.values()):
            self._line.end(load, ShuttingDown())
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
                    next_s = self._settle(await self._room() if self._line else self._capacity())
                except Exception:  # a bug in one decision must not keep the next one from being made
                    logger.exception("bug in a decision about residency")
                    next_s = self._clock() + _AGAIN_S
                with anyio.move_on_after(None if next_s is None else max(0.0, next_s - self._clock())):
                    await changed.wait()
            tasks.cancel_scope.cancel()

    def _settle(self, capacity: Needs) -> float | None:
        """Decide, and act. Returns when to look again if nothing changes."""
        now_s = self._clock()
        forgotten, forgotten_due_s = self._line.forgotten(now_s=now_s)
        for load in forgotten:
            logger.info("load given up, nobody asks for it any more", extra={"model_id": load.model_id})
            self._line.end(load, ModelNotLoaded(load.model_id))
        due_s = [forgotten_due_s]
        specs = [*(model.spec for model in self._models.values()), *(load.spec for load in self._line.values())]
        decision = decide(
            self._line.wanted(but=self._here_by_another_name()),
            self._residents(),
            self.rules.house(capacity, specs),
            now_s=now_s,
        )
        for model_id, refusal in decision.refused.items():
            self._refuse(self._line[model_id], refusal)
        has_begun = [self._begin(self._line[model_id]) for model_id in decision.start]
        if not all(has_begun):
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
        self._leave_to_residents()
        due_s += [decision.next_s, idle_due_s]
        return min((each_s for each_s in due_s if each_s is not None), default=None)

    def _here_by_another_name(self) -> set[str]:
        """The loads of models that have memory under another spelling of their ids. They wait until that is back."""
        same = {load.model_id: self._models.find_same(load.spec) for load in self._line.values()}
        return {id_ for id_, model in same.items() if model is not None and model.model_id != id_}

    def _leave_to_residents(self) -> None:
        """End the loads of models that are here, perhaps under another spelling of their ids, and stay."""
        for load in tuple(self._line.values()):
            model = self._models.find_same(load.spec)
            if model is not None and not model.is_leaving and self.admits(model):
                self._line.end(load, model)

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
            idle_limit_s=self.rules.idle_limit_s(
                rules,
                keep_alive_s=model.keep_alive_s,
                stayed_s=0.0 if model.served_s is None else model.used_s - model.served_s,
            ),
        )

    def _yield(self, yielding: frozenset[str]) -> None:
        for model_id in sorted(yielding - self._yielding):
            logger.info("model makes room and takes no further requests", extra={"model_id": model_id})
        self._yielding = yielding
        self._models.changes.notify()

    # -------------------------------------------------------------------------------------------------------- the line

    def _join(self, spec: ModelSpec, *, may_displace: bool) -> WaitingLoad:
        is_new = public_id(spec.model_id) not in self._line
        load = self._line.join(spec, may_displace=may_displace, most=self._models.limits.max_loads)
        if is_new:
            self._unmeasured.append(load)
        return load

    def _measure_all(self, tasks: TaskGroup) -> None:
        self._count_uncounted()
        for load in self._unmeasured:
            tasks.start_soon(self._measure, load)
        self._unmeasured.clear()

    def _count_uncounted(self) -> None:
        """Ask for the needs of models that were loaded before the rules of the host made room."""
        if not self.rules.makes_room:
            return
        for model in self._models.values():
            if model.model_id not in self._begun and not model.is_leaving:
                load = WaitingLoad(
                    spec=model.spec,
                    model_id=model.model_id,
                    may_displace=False,
                    asked_s=self._clock(),
                    outcome=model,
                )
                self._begun[model.model_id] = load
                self._unmeasured.append(load)

    async def _measure(self, load: WaitingLoad) -> None:
        needs: Needs | None = None
        try:
            with anyio.move_on_after(_MEASURING_LIMIT_S):
                needs = await self._need_of(load.spec)
        except NeuronError as error:
            if load.outcome is None:
                self._fail(load, error)
                return
        except Exception:  # a harness with a bug must not take the other models with it
            logger.exception("bug in the memory need of a model", extra={"model_id": load.model_id})
        if not needs:
            logger.warning("memory need of a model is not known, no room is made", extra={"model_id": load.model_id})
        load.needs = needs or {}
        self._changes.notify()

    def _begin(self, load: WaitingLoad) -> bool:
        """Begin the load. Returns False if it must wait because too many other loads are under way."""
        try:
            model = self._start(load.spec)
        except Overloaded:
            return False
        except NeuronError as error:
            self._fail(load, error)
            return True
        self._begun[model.model_id] = load
        self._line.end(load, model)
        return True

    def _may_try_with_more_room(self, begun: WaitingLoad | None, failure: NeuronError | None) -> bool:
        """Put a load back into the line that its harness refused for want of memory, if a model can go for it.

        The harness has measured, and less is free than was counted. So the load is counted as if it took all that the
        others leave and a byte more.
        """
        if begun is None or not begun.may_displace or self._is_closed or not lacks_memory(failure):
            return False
        residents, capacity = self._residents(), self._capacity()
        needs = dict(begun.needs or {})
        for device in needs.keys() & capacity.keys():
            left = capacity[device] - sum(each.needs.get(device, 0) for each in residents)
            needs[device] = max(needs[device], left + 1)
        may_go = [each for each in residents if not each.is_pinned]
        if not any(each.needs.get(device) for each in may_go for device in needs.keys() & capacity.keys()):
            return False
        load = WaitingLoad(
            spec=begun.spec, model_id=begun.model_id, may_displace=True, asked_s=self._clock(), needs=needs
        )
        self._line.put(load)
        logger.warning("less memory is free than was counted, more room is made", extra={"model_id": load.model_id})
        return True

    def _refuse(self, load: WaitingLoad, refusal: Refusal) -> None:
        text = f"model {clip(load.model_id)!r} does not fit on this host: {refusal.reason}"
        if refusal.device:
            error = PreflightFailed.of_memory(
                text,
                model_id=load.model_id,
                device=refusal.device,
                needed_bytes=refusal.needed_bytes,
                free_bytes=refusal.free_bytes,
            )
        else:
            error = PreflightFailed(PreflightKind.INSUFFICIENT_MEMORY, text, model_id=load.model_id)
        self._fail(load, error)

    def _fail(self, load: WaitingLoad, error: NeuronError) -> None:
        logger.warning("load cannot begin: %s", error.log_message, extra={"model_id": load.model_id})
        if load.may_displace or not lacks_memory(error):  # a request may find room that another load may not make
            self._cool_downs.fail(load.model_id, error, now_s=self._clock())
        self._line.end(load, error)

    def _tell(self) -> None:
        """The line has changed: callers of loads and chats that wait look again."""
        self._changes.notify()
        self._models.changes.notify()
