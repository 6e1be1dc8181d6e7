"""How far a load is: which report may follow which, what a report says in words, and when it is worth a line of log.

Pure: times are arguments, in seconds of any one clock. Owns no load and writes no log; `load_log` does.
"""

from dataclasses import dataclass
from typing import Final

from neuron_lib.shown import clip
from neuron_lib.sizes import format_rounded, format_size, size_unit
from neuron_lib.types import LoadProgress, LoadStage

__all__ = ("ProgressLog", "advance", "describe", "retry_after_s")

_RANK: Final = {stage: rank for rank, stage in enumerate(LoadStage)}
_LONGEST_RETRY_S: Final = 120
_UNKNOWN_RETRY_S: Final = 5
_SHORTEST_PAUSE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 60.0


def advance(previous: LoadProgress, reported: LoadProgress) -> LoadProgress:
    """The progress to show after `previous`, when a harness reports `reported`. Any report is accepted.

    A report of an earlier stage changes nothing. Within a stage the counts and the fraction never fall, no number is
    negative, and a number that was known stays known. Rate, time left and the position in the line of fetches are as
    reported, and so is the name of the file, clipped. Where the harness leaves out the fraction, it is computed from
    the bytes.
    """
    if _RANK[reported.stage] < _RANK[previous.stage]:
        return previous
    if reported.stage is not previous.stage:
        previous = LoadProgress(stage=reported.stage)
    done, total = _most(previous.bytes, reported.bytes), _most(previous.total_bytes, reported.total_bytes)
    fraction = reported.fraction
    if fraction is None and done is not None and total:
        fraction = done / total
    if fraction is not None:
        # In this order a NaN, which JSON cannot express, becomes 0.
        fraction = max(previous.fraction or 0.0, min(fraction, 1.0))
    return LoadProgress(
        stage=reported.stage,
        fraction=previous.fraction if fraction is None else fraction,
        file=clip(reported.file) if reported.file else previous.file,
        bytes=done,
        total_bytes=total,
        bytes_per_s=_most(reported.bytes_per_s),
        eta_s=_most(reported.eta_s),
        queue_position=_most(reported.queue_position),
    )


def describe(progress: LoadProgress) -> str:
    """The progress in words, such as `downloading 42 %, 1.2 of 2.9 GB, 38 MB/s, 45 s left`; MB and GB are decimal."""
    done, total = progress.bytes, progress.total_bytes
    # Rounded down, so that 100 % is not shown before the end.
    percent = "" if progress.fraction is None else f" {int(progress.fraction * 100)} %"
    parts = [f"{progress.stage}{percent}"]
    if progress.queue_position is not None:
        parts.append(f"number {progress.queue_position} in the line for a fetch")
    if done is not None:
        unit, name = size_unit(max(done, total or 0))
        of_total = "" if total is None else f" of {format_rounded(total / unit)}"
        parts.append(f"{format_rounded(done / unit)}{of_total} {name}")
    if progress.bytes_per_s is not None:
        parts.append(f"{format_size(progress.bytes_per_s)}/s")
    if progress.eta_s is not None:
        parts.append(f"{progress.eta_s} s left" if progress.eta_s < 120 else f"{progress.eta_s // 60} min left")
    return ", ".join(parts)


def retry_after_s(eta_s: int | None) -> int:
    """After how many seconds a client should ask again for a model that needs `eta_s` more seconds.

    1 to 120; 5 if the time is not known.
    """
    return _UNKNOWN_RETRY_S if eta_s is None else max(1, min(eta_s, _LONGEST_RETRY_S))


@dataclass(slots=True)
class ProgressLog:
    """Decides which reports of one load are worth a line of log.

    These are: the first report of each stage; the first that says that the load waits for other fetches; the first
    after each further 10 %, but not within 10 s of the last line; and any report of a change when the last line is 60 s
    old.
    """

    _logged: LoadProgress | None = None
    _logged_s: float = 0.0

    def line(self, progress: LoadProgress, *, now_s: float) -> str | None:
        """The line for this report; None if it is worth none. Each `progress` follows the one before by `advance`."""
        if self._logged is None or self._logged.stage is not progress.stage:
            text = f"loading model: {progress.stage}"
        elif progress.queue_position is not None and self._logged.queue_position is None:
            text = f"model load waits: {describe(progress)}"
        elif _is_due(progress, logged=self._logged, pause_s=now_s - self._logged_s):
            text = f"model load progress: {describe(progress)}"
        else:
            return None
        self._logged, self._logged_s = progress, now_s
        return text


def _is_due(progress: LoadProgress, *, logged: LoadProgress, pause_s: float) -> bool:
    if pause_s >= _LONGEST_PAUSE_S:
        return _moving(progress) != _moving(logged)
    return pause_s >= _SHORTEST_PAUSE_S and _tenths(progress) > _tenths(logged)


def _moving(progress: LoadProgress) -> tuple[float | None, ...]:
    return progress.bytes, progress.fraction, progress.queue_position


def _tenths(progress: LoadProgress) -> int:
    return int((progress.fraction or 0.0) * 10)


def _most(*counts: int | None) -> int | None:
    """The greatest of the known counts, at least 0; None if none is known."""
    known = [count for count in counts if count is not None]
    return max(0, *known) if known else None
