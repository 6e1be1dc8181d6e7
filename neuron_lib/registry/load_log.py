"""How far one load is, as its harness reports it, and the lines of log about that. Loads nothing itself."""

from collections.abc import Callable

from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.progress import ProgressLog, advance, describe
from neuron_lib.sizes import MB
from neuron_lib.types import EndedLoad, LoadOutcome, LoadProgress, LoadStage

__all__ = ("LoadLog",)

logger: FieldLogger = get_logger(__name__)


class LoadLog:
    """The progress and the log of one load. Lives as long as the record of its model."""

    def __init__(self, model_id: str, *, clock: Callable[[], float]) -> None:
        """Begin with the stage `resolving`, and log it. `clock` gives seconds."""
        self.progress: LoadProgress = LoadProgress(stage=LoadStage.RESOLVING)
        self._model_id = model_id
        self._clock = clock
        self._lines = ProgressLog()
        self._started_s = clock()
        self._stage_s = self._started_s  # when the stage began
        self._stages_s: list[tuple[LoadStage, float]] = []  # of the stages that are over
        self._fetched_from: int | None = None  # the bytes that were there when the download began
        self.fetched_bytes: int = 0
        self._log()

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the start of the load."""
        return round((self._clock() - self._started_s) * 1000)

    def take(self, reported: LoadProgress) -> bool:
        """Take what the harness says. Returns whether that is news; the progress never goes back."""
        progress = advance(self.progress, reported)
        if progress == self.progress:
            return False
        if progress.stage is not self.progress.stage:
            self._end_stage()
        self.progress = progress
        if progress.stage is LoadStage.DOWNLOADING and progress.bytes is not None:
            self._fetched_from = progress.bytes if self._fetched_from is None else self._fetched_from
            self.fetched_bytes = progress.bytes - self._fetched_from
        self._log()
        return True

    def _end_stage(self) -> None:
        now_s = self._clock()
        self._stages_s.append((self.progress.stage, now_s - self._stage_s))
        self._stage_s = now_s

    def end(self, outcome: LoadOutcome, *, error: str | None = None) -> EndedLoad:
        """The load ends now. Called once."""
        self._end_stage()
        return EndedLoad(
            model_id=self._model_id,
            outcome=outcome,
            stages_s=tuple(self._stages_s),
            fetched_bytes=self.fetched_bytes,
            error=error,
        )

    def log_cancelled(self) -> None:
        """Log that the load was cancelled, and how far it had come."""
        labels = {"model_id": self._model_id, "elapsed_ms": self.elapsed_ms}
        logger.info("load cancelled: %s", describe(self.progress), extra=labels)

    def _log(self) -> None:
        progress = self.progress
        line = self._lines.line(progress, now_s=self._clock())
        if line is not None:
            fields: dict[str, str | int] = {"model_id": self._model_id}
            if progress.file is not None:
                fields["file"] = progress.file
            if progress.total_bytes is not None:
                fields["total_mb"] = progress.total_bytes // MB
            logger.info("%s", line, extra=fields)
