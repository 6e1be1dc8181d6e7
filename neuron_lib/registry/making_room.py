"""Decides which loads may begin, and which models go for them. Pure: no clock, no task, no model.

Loads wait in a line, first come, first served. A model goes only if it is idle, not pinned, and has been here for the
minimum residence. A model that must go and is busy yields: it finishes what it has begun, and admits nothing further.
So no load waits for ever, however many requests another model gets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from neuron_lib.shown import clip
from neuron_lib.sizes import format_size

__all__ = ("Decision", "House", "Needs", "Refusal", "Resident", "Wanted", "decide", "idle_too_long")

Needs: TypeAlias = Mapping[str, int]
"""Bytes of memory by the name of the device: "cpu", "gpu0", "gpu1" and so on."""


class House(Struct, frozen=True, kw_only=True):
    """What the models of a host have to share.

    `capacity` is the memory that all models together may take; a device that it does not name has no limit. At most one
    model of each set in `exclusive` is here at a time. A model may be made to go `min_resident_s` after its load.
    """

    capacity: Needs
    exclusive: tuple[frozenset[str], ...] = ()
    min_resident_s: float = 0.0


class Resident(Struct, frozen=True, kw_only=True):
    """One model that has memory. Times are seconds of one clock.

    `loaded_s` is when its load ended, None while it loads. `used_s` is when it was last busy. `is_leaving`: its memory
    will be free without further doing. `idle_limit_s` is how long it may be idle, None for ever.
    """

    model_id: str
    needs: Needs
    loaded_s: float | None
    used_s: float
    is_busy: bool = False
    is_pinned: bool = False
    is_leaving: bool = False
    idle_limit_s: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it serves, and so can be made to go."""
        return self.loaded_s is not None and not self.is_leaving


class Wanted(Struct, frozen=True, kw_only=True):
    """One load that waits. Without `may_displace` it takes only memory that is free without making a model go."""

    model_id: str
    needs: Needs
    may_displace: bool = True


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a load cannot begin whatever happens. With a `device`, the bytes that it needs there and could have."""

    reason: str
    device: str = ""
    needed_bytes: int = 0
    free_bytes: int = 0


class Decision(Struct, frozen=True, kw_only=True):
    """What to do now.

    `start` are the loads that may begin. `evict` are models that go now: the model, and the load that it goes for.
    `yielding` are models that admit nothing further, because they go as soon as they are idle. `refused` are loads that
    cannot begin whatever happens. `next_s` is when to decide again if nothing has changed until then.
    """

    start: tuple[str, ...] = ()
    evict: Mapping[str, str] = {}
    yielding: frozenset[str] = frozenset()
    refused: Mapping[str, Refusal] = {}
    next_s: float | None = None


def decide(line: Sequence[Wanted], residents: Sequence[Resident], house: House, *, now_s: float) -> Decision:
    """The decision for a `line` of loads, the first of which came first."""
    room = _Room(residents, house, now_s)
    for wanted in line:
        room.consider(wanted)
    return Decision(
        start=tuple(room.started),
        evict=room.evicted,
        yielding=frozenset(room.yielding),
        refused=room.refused,
        next_s=min(room.due_s, default=None),
    )


def idle_too_long(residents: Iterable[Resident], *, now_s: float) -> tuple[tuple[str, ...], float | None]:
    """The models that have been idle for as long as they may, and when the next one will have been."""
    due = {
        resident.model_id: resident.used_s + resident.idle_limit_s
        for resident in residents
        if resident.is_settled and not resident.is_busy and not resident.is_pinned and resident.idle_limit_s is not None
    }
    over = tuple(model_id for model_id, due_s in due.items() if due_s <= now_s)
    return over, min((due_s for due_s in due.values() if due_s > now_s), default=None)


class _Room:
    """The memory of a host while one decision is made."""

    def __init__(self, residents: Sequence[Resident], house: House, now_s: float) -> None:
        self._house = house
        self._now_s = now_s
        self._taken: dict[str, Needs] = {each.model_id: each.needs for each in residents}
        """What is taken now, and by the loads that begin now."""
        self._staying = {each.model_id: each for each in residents if not each.is_leaving}
        """The models that no load of the line takes the place of."""
        self._promised: dict[str, Needs] = {}
        """What the loads of the line that were considered will take."""
        self._blocked: list[Wanted] = []
        """Loads that wait until earlier loads of the line have had their turn. Later ones may not overtake them."""
        self.started: list[str] = []
        self.evicted: dict[str, str] = {}
        self.yielding: set[str] = set()
        self.refused: dict[str, Refusal] = {}
        self.due_s: list[float] = []

    def consider(self, wanted: Wanted) -> None:
        model_id = wanted.model_id
        if model_id in self._staying or model_id in self._promised:
            return  # it is here, or is about to be
        refusal = self._hopeless(wanted)
        if refusal is not None:
            self.refused[model_id] = refusal
            return
        victims = None if self._must_not_overtake(wanted) else self._victims(wanted)
        if victims is None:
            self._blocked.append(wanted)
            return
        if not victims and model_id not in self._taken and self._fits_now(wanted):
            self.started.append(model_id)
            self._taken[model_id] = wanted.needs
        self._promised[model_id] = wanted.needs
        for victim in victims:
            del self._staying[victim.model_id]
            self._make_go(victim, for_model=model_id)

    def _make_go(self, victim: Resident, *, for_model: str) -> None:
        if victim.loaded_s is None:
            return  # the end of its load is a change
        settled_s = victim.loaded_s + self._house.min_resident_s
        if settled_s > self._now_s:
            self.due_s.append(settled_s)
        elif victim.is_busy:
            self.yielding.add(victim.model_id)
        else:
            self.evicted[victim.model_id] = for_model

    def _hopeless(self, wanted: Wanted) -> Refusal | None:
        """Why the load could not begin even if every model went that may go. None if it could."""
        fixed = [each for each in self._staying.values() if each.is_pinned or not wanted.may_displace]
        what = "pinned" if wanted.may_displace else "loaded"
        for other in fixed:
            if self._exclude(wanted.model_id, other.model_id):
                return Refusal(reason=f"it must not be loaded together with {clip(other.model_id)!r}, which is {what}")
        for device, needed in wanted.needs.items():
            capacity = self._house.capacity.get(device)
            if capacity is None or needed == 0:
                continue
            kept = sum(each.needs.get(device, 0) for each in fixed)
            if kept + needed > capacity:
                beside = f", of which models that are {what} take {format_size(kept)}" if kept else ""
                may = f"models may take {format_size(capacity)} there{beside}"
                return Refusal(
                    reason=f"it needs {format_size(needed)} on {device}, and {may}",
                    device=device,
                    needed_bytes=needed,
                    free_bytes=max(0, capacity - kept),
                )
        return None

    def _must_not_overtake(self, wanted: Wanted) -> bool:
        return any(
            self._exclude(wanted.model_id, other.model_id) or self._limited(wanted) & self._limited(other)
            for other in self._blocked
        )

    def _limited(self, wanted: Wanted) -> set[str]:
        """The devices with a limit of which it needs something."""
        return {device for device, needed in wanted.needs.items() if needed and device in self._house.capacity}

    def _fits_now(self, wanted: Wanted) -> bool:
        """Whether there is room beside what is taken now. Models that leave still have their memory."""
        if any(self._exclude(wanted.model_id, other) for other in self._taken):
            return False
        return not self._short(wanted, self._taken.values())

    def _short(self, wanted: Wanted, taken: Iterable[Needs]) -> dict[str, int]:
        """The bytes that are missing on each device if `taken` is taken."""
        held = list(taken)
        missing = {
            device: sum(needs.get(device, 0) for needs in held) + needed - self._house.capacity[device]
            for device, needed in wanted.needs.items()
            if needed and device in self._house.capacity
        }
        return {device: count for device, count in missing.items() if count > 0}

    def _victims(self, wanted: Wanted) -> list[Resident] | None:
        """The models that must go, () if none. None if not even all of them would be enough before earlier loads had
        their turn.
        """
        if any(self._exclude(wanted.model_id, other) for other in self._promised):
            return None
        candidates = sorted(
            (each for each in self._staying.values() if not each.is_pinned and wanted.may_displace),
            key=self._preference,
        )
        victims = [each for each in candidates if self._exclude(wanted.model_id, each.model_id)]
        for each in candidates:
            short = self._shortage(wanted, victims)
            if not short:
                break
            if each not in victims and any(each.needs.get(device, 0) for device in short):
                victims.append(each)
        if self._shortage(wanted, victims):
            return None
        for each in reversed(victims):  # no model goes in vain
            fewer = [other for other in victims if other is not each]
            if not self._exclude(wanted.model_id, each.model_id) and not self._shortage(wanted, fewer):
                victims = fewer
        return victims

    def _shortage(self, wanted: Wanted, victims: Sequence[Resident]) -> dict[str, int]:
        gone = {each.model_id for each in victims}
        staying = (each.needs for each in self._staying.values() if each.model_id not in gone)
        return self._short(wanted, (*staying, *self._promised.values()))

    def _preference(self, each: Resident) -> tuple[bool, bool, float]:
        """Idle models before others, those that may go now before others, and then the one that was not used longest.

        Among busy models it is the one that has been here longest, so that the choice does not change from moment to
        moment.
        """
        if each.loaded_s is None:
            return True, True, 0.0
        is_young = each.loaded_s + self._house.min_resident_s > self._now_s
        return each.is_busy, is_young, each.loaded_s if each.is_busy else each.used_s

    def _exclude(self, one: str, other: str) -> bool:
        return one != other and any(one in group and other in group for group in self._house.exclusive)
