"""Whether an engine gets on. Pure: whoever owns it looks at it again and again, and tells it what the engine says."""

from dataclasses import dataclass, field
from typing import Final

from neuron_lib.engine.protocol import Beat, Progress, Ready, Report, StepEvents, Work

__all__ = ("Standstill",)

_LONGEST_LOOK_S: Final = 1.0
_LOOKS: Final = 10
_GROWTH_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Standstill:
    """Call `hear` with every report and `look` each `look_s`.

    Looks are counted, not seconds: a daemon that was stopped itself must not blame its engines when it goes on. Steps,
    and beats of an engine that has nothing to do, are progress. A beat that tells of the same step is none, and neither
    is an answer: prompts are prepared, and refused, by threads that go on while a step hangs. What each of these
    threads does is judged by itself, as it does not stop for a hang of another; only beats tell of it. While the model
    is loaded a beat is progress if the process has grown since, or had more read from storage: the first computation
    reads weights without a word, and where they exceed the memory the process stays as large as it is. Processor time
    is none, which a loop without end takes too. An engine beats from when it has read its own code on, so before the
    first beat only `stall_limit_s` counts.
    """

    stall_limit_s: float
    silence_limit_s: float
    _is_ready: bool = False
    _step: int = -1
    _rss_bytes: int = 0
    _read_bytes: int = 0
    _has_beaten: bool = False
    _still_looks: int = 0
    _silent_looks: int = 0
    _work: tuple[Work, ...] = ()
    _looks_at_work: dict[str, int] = field(default_factory=dict)  # since it got on, by name

    @property
    def look_s(self) -> float:
        """Seconds between two looks."""
        return min(_LONGEST_LOOK_S, self.stall_limit_s / _LOOKS, self.silence_limit_s / _LOOKS)

    @property
    def verdict(self) -> str | None:
        """What is wrong with an engine that has reached a limit."""
        return self._exceeding(1.0)

    @property
    def suspicion(self) -> str | None:
        """What is wrong with one that is half-way there."""
        return self._exceeding(0.5)

    def hear(self, report: Report) -> None:
        """Take a report of the engine."""
        self._silent_looks = 0
        if isinstance(report, Ready):
            self._is_ready = True
        if isinstance(report, Ready | Progress | StepEvents) or self._is_good_beat(report):
            self._still_looks = 0

    def _is_good_beat(self, beat: Report) -> bool:
        if not isinstance(beat, Beat):
            return False
        self._has_beaten = True
        done = {work.name: work.done for work in self._work}
        self._looks_at_work = {
            work.name: self._looks_at_work.get(work.name, 0)
            for work in beat.work
            if work.waiting and work.done == done.get(work.name)
        }
        self._work = beat.work
        # A prompt that is being read brings steps without events.
        gets_on = beat.in_flight == 0 or beat.step != self._step
        if not self._is_ready:
            growth_bytes = max(beat.rss_bytes - self._rss_bytes, beat.read_bytes - self._read_bytes)
            gets_on = growth_bytes >= _GROWTH_BYTES
        if gets_on:
            self._step, self._rss_bytes, self._read_bytes = beat.step, beat.rss_bytes, beat.read_bytes
        return gets_on

    def look(self) -> None:
        """Count the time since the last look."""
        self._still_looks += 1
        self._silent_looks += 1
        for work in self._work:
            if work.waiting:
                self._looks_at_work[work.name] = self._looks_at_work.get(work.name, 0) + 1

    def _exceeding(self, share: float) -> str | None:
        silent_s, still_s = self._silent_looks * self.look_s, self._still_looks * self.look_s
        if self._has_beaten and silent_s >= share * self.silence_limit_s:
            return f"silent for {silent_s:g} s"
        if still_s >= share * self.stall_limit_s:
            return f"no progress for {still_s:g} s"
        for name, looks in self._looks_at_work.items():
            if looks * self.look_s >= share * self.stall_limit_s:
                return f"no progress with {name} for {looks * self.look_s:g} s"
        return None
