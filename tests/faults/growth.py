"""What a daemon has after each of many cycles of loading, chatting and unloading, and whether that grows."""

from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.exchanges import Ending
from tests.faults.footprint import Footprint, anonymous_bytes, footprint, slope
from tests.faults.subject import Rig
from tests.patience import slowness
from tests.system.daemon import eventually

__all__ = ("MOST_BYTES_A_CYCLE", "WARM_UP_CYCLES", "Growth", "cycle")

MOST_BYTES_A_CYCLE = 20_000
WARM_UP_CYCLES = 5
CHATS = 3
REST_S = 0.5
"""How long a reading that is more than the one before is read again, on an idle machine."""


@dataclass(slots=True)
class Growth:
    """A series of readings, each taken when nothing was going on."""

    anonymous: list[int] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)

    def read(self, pid: int) -> None:
        """Add a reading. A connection that is just being closed is waited for; a leak stays, however long it takes."""
        self.anonymous.append(anonymous_bytes(pid))
        looks = [footprint(pid)]

        def is_at_rest() -> bool:
            looks.append(footprint(pid))
            return not self.footprints or not looks[-1].exceeds(self.footprints[-1])

        with suppress(AssertionError):
            eventually(is_at_rest, within_s=REST_S * slowness())
        self.footprints.append(looks[-1])

    @property
    def bytes_a_cycle(self) -> float:
        """Slope of the memory over the second half, in which caches and pools are as large as they get."""
        return slope(self.anonymous[len(self.anonymous) // 2 :])

    def check(self) -> None:
        """An AssertionError with I7 or I5 if anything grew."""
        half = len(self.footprints) // 2
        early, late = self.footprints[half], self.footprints[-1]
        assert not late.exceeds(early), f"I5: {late} after the last cycle is more than {early} half-way"
        rate = self.bytes_a_cycle
        assert rate <= MOST_BYTES_A_CYCLE, f"I7: {rate / 1000:.1f} kB more in each cycle, of {self.anonymous}"


def cycle(rig: Rig, model: str) -> None:
    """Load a model, have it answer streamed and whole, unload it, and wait until its process is gone."""
    others = set(rig.daemon.engine_pids())
    assert rig.load(model).is_success
    for number in range(CHATS):
        assert rig.answer(model, stream=number % 2 == 0, max_tokens=16).ending is Ending.COMPLETE
    assert rig.unload(model).is_success
    eventually(lambda: set(rig.daemon.engine_pids()) <= others)
    rig.exchanges.clear()
