"""When a dead engine is started again, and when no more. Pure: times are arguments, in seconds of any one clock."""

from collections import deque
from dataclasses import dataclass, field

__all__ = ("RestartPolicy",)


@dataclass(slots=True)
class RestartPolicy:
    """Counts the deaths of one model's engines.

    The first is followed by a pause of `first_pause_s`, each further one within `window_s` of the one before by twice
    the last pause, up to `longest_pause_s`; `most_deaths` within `window_s` are the end.
    """

    most_deaths: int = 3
    window_s: float = 600.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    _deaths_s: deque[float] = field(default_factory=deque)
    _pause_s: float = 0.0

    def pause_after_death(self, now_s: float) -> float | None:
        """Count a death; returns the seconds to wait before the next start, None if there shall be none."""
        while self._deaths_s and now_s - self._deaths_s[0] >= self.window_s:
            self._deaths_s.popleft()
        self._pause_s = self.pause_after_no_start() if self._deaths_s else self.first_pause_s
        self._deaths_s.append(now_s)
        return None if len(self._deaths_s) >= self.most_deaths else self._pause_s

    def pause_after_no_start(self) -> float:
        """The seconds to wait after a start that the host had no means for: nothing has died, so it never ends."""
        self._pause_s = min(2 * self._pause_s, self.longest_pause_s)
        return self._pause_s
