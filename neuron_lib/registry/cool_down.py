"""Models whose last load failed, and when the next try may begin. Pure: the time is an argument."""

from typing import Final, TypeGuard

from msgspec import Struct

from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, cause_chain

__all__ = ("CoolDown", "CoolDowns", "lacks_memory")

_LONGEST_S: Final = 300.0
_REMEMBERED: Final = 64


class CoolDown(Struct, frozen=True, kw_only=True):
    """No try to load a model begins before `until_s`. `failures` is how often its load failed in a row.

    `lack` is the refusal of the load if the model needs more memory than it can get.
    """

    failures: int
    until_s: float
    reason: str
    lack: PreflightFailed | None = None


class CoolDowns:
    """The cool-downs by public id. Remembers the latest 64 models."""

    def __init__(self, *, first_s: float) -> None:
        """The first pause is `first_s`, at least a second. It doubles with each further failure, up to 300 s.

        It does not grow where memory is lacking: other programs may return memory at any time, and a load that does not
        fit is refused before it has cost much.
        """
        self._first_s = max(first_s, 1.0)
        self._by_id: dict[str, CoolDown] = {}

    def fail(self, model_id: str, cause: NeuronError | str, *, now_s: float) -> None:
        """A load of the model failed with an error, or the model was lost for a reason."""
        before = self._by_id.pop(model_id, None)
        failures = 1 if before is None else before.failures + 1
        lack = cause if lacks_memory(cause) else None
        grown_s = self._first_s * 2.0 ** min(failures - 1, 16)
        self._by_id[model_id] = CoolDown(
            failures=failures,
            until_s=now_s + (min(_LONGEST_S, grown_s) if lack is None else self._first_s),
            reason=cause if isinstance(cause, str) else cause_chain(cause),
            lack=lack,
        )
        if len(self._by_id) > _REMEMBERED:
            del self._by_id[next(iter(self._by_id))]

    def succeed(self, model_id: str) -> None:
        """The model serves. Earlier failures no longer count."""
        self._by_id.pop(model_id, None)

    def now(self, model_id: str, *, now_s: float) -> CoolDown | None:
        """The cool-down that holds the model back now. None if there is none."""
        cool_down = self._by_id.get(model_id)
        return cool_down if cool_down is not None and cool_down.until_s > now_s else None


def lacks_memory(cause: object) -> TypeGuard[PreflightFailed]:
    """Whether a load was refused because the model needs more memory than it can get."""
    return isinstance(cause, PreflightFailed) and cause.kind is PreflightKind.INSUFFICIENT_MEMORY
