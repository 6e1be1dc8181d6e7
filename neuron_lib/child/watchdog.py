"""Decides whether a child process makes progress. Pure: has no clock and no process. `child.process.watch` calls it.

The owner of a child reports the child's signs to the watchdog. What counts as which sign depends on the child:

| sign                    | engine, while loading          | engine, while serving           | fetch           |
|-------------------------|--------------------------------|---------------------------------|-----------------|
| `note_life`             | any report                     | any report                      | any frame       |
| `note_progress`         | a new fraction of the weights; | events of a step; a beat with a | never           |
|                         | a beat of a process that has   | new step number, or with        |                 |
|                         | grown or read from storage     | nothing to do                   |                 |
| `note_work`             | each beat                      | each beat                       | never           |
| silence is counted from | the first beat                 | the first beat                  | the start       |
| these are no progress   | processor time: an endless     | answers to prompts: other       | bytes: the      |
|                         | loop takes it too              | threads give them in a hang     | child judges it |

For a child that serves a model by itself, each answer of its health probe would be `note_life`. Each token would be
`note_progress`, and so would each answer of the probe while the child has no request.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ("Watchdog",)

_LONGEST_LOOK_S: Final = 1.0
_LOOKS: Final = 10
"""The least number of looks within a limit."""


class Watchdog:
    """Counts the looks since the last sign. Call `look` each `look_s` seconds.

    Looks are counted and not seconds. A daemon that was stopped has not looked meanwhile, so it does not blame its
    children when it goes on.

    A child may be without progress for `stall_limit_s` and silent for `silence_limit_s`; infinity is no limit.
    `silence_counts` says whether silence is counted from the beginning.
    """

    def __init__(self, *, stall_limit_s: float, silence_limit_s: float, silence_counts: bool = True) -> None:
        self.stall_limit_s: Final = stall_limit_s
        self.silence_limit_s: Final = silence_limit_s
        self.silence_counts = silence_counts
        self._silent_looks = 0
        self._still_looks = 0
        self._work: dict[str, tuple[int, int]] = {}  # by name: what is done so far, looks since that was less

    @property
    def look_s(self) -> float:
        """Seconds between two looks."""
        return min(_LONGEST_LOOK_S, self.stall_limit_s / _LOOKS, self.silence_limit_s / _LOOKS)

    @property
    def verdict(self) -> str | None:
        """What is wrong with a child that has reached a limit and must be ended; None if nothing is."""
        return self._complaint(1.0)

    @property
    def suspicion(self) -> str | None:
        """What is wrong with a child that is half-way to a limit; None if nothing is."""
        return self._complaint(0.5)

    def note_life(self) -> None:
        """The child has sent something."""
        self._silent_looks = 0

    def note_progress(self) -> None:
        """The child has made progress with its work, or has no work."""
        self._still_looks = 0

    def note_work(self, done: Mapping[str, int]) -> None:
        """The child's work beside its main work, by name, and how much of each is done so far.

        Each name stands for a thread of the child. A thread goes on while another hangs, so each name has a stall limit
        of its own. A thread that is not named has nothing to do.
        """
        self._work = {name: (so_far, self._looks_at(name, so_far)) for name, so_far in done.items()}

    def look(self) -> None:
        """Count the time since the last look."""
        self._still_looks += 1
        self._silent_looks += 1
        self._work = {name: (done, looks + 1) for name, (done, looks) in self._work.items()}

    def _looks_at(self, name: str, done: int) -> int:
        earlier, looks = self._work.get(name, (done, 0))
        return looks if done == earlier else 0

    def _complaint(self, share: float) -> str | None:
        silent_s, still_s = self._silent_looks * self.look_s, self._still_looks * self.look_s
        if self.silence_counts and silent_s >= share * self.silence_limit_s:
            return f"silent for {silent_s:g} s"
        if still_s >= share * self.stall_limit_s:
            return f"no progress for {still_s:g} s"
        for name, (_, looks) in self._work.items():
            if looks * self.look_s >= share * self.stall_limit_s:
                return f"no progress with {name} for {looks * self.look_s:g} s"
        return None
