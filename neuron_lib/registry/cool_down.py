"""Models whose last load failed, and when the next try may begin. Pure: the time is an argument."""

from typing import Final

from msgspec import Struct

__all__ = ("CoolDown", "CoolDowns")

_LONGEST_S: Final = 300.0
_REMEMBERED: Final = 64


class CoolDown(Struct, frozen=True, kw_only=True):
    """No try to load a model begins before `until_s`. `failures` is how often its load failed in a row."""

    failures: int
    until_s: float
    reason: str


class CoolDowns:
    """The cool-downs by public id. Remembers the latest 64 models."""

    def __init__(self, *, first_s: float) -> None:
        """The first pause is `first_s`, at least a second. It doubles with each further failure, up to 300 s."""
        self._first_s = max(first_s, 1.0)
        self._by_id: dict[str, CoolDown] = {}

    def fail(self, model_id: str, reason: str, *, now_s: float) -> None:
        """A load of the model failed, or the model was lost."""
        before = self._by_id.pop(model_id, None)
        failures = 1 if before is None else before.failures + 1
        pause_s = min(_LONGEST_S, self._first_s * 2.0 ** min(failures - 1, 16))
        self._by_id[model_id] = CoolDown(failures=failures, until_s=now_s + pause_s, reason=reason)
        if len(self._by_id) > _REMEMBERED:
            del self._by_id[next(iter(self._by_id))]

    def succeed(self, model_id: str) -> None:
        """The model serves. Earlier failures no longer count."""
        self._by_id.pop(model_id, None)

    def now(self, model_id: str, *, now_s: float) -> CoolDown | None:
        """The cool-down that holds the model back now. None if there is none."""
        cool_down = self._by_id.get(model_id)
        return cool_down if cool_down is not None and cool_down.until_s > now_s else None
