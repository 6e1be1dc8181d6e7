"""What this process has counted since it started, for `GET /metrics`: answers, replies, loads, the lag of the loop.

Counts only. What can be read from the registry when somebody asks is not counted here. Nothing here runs for a token.
"""

from collections import Counter
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from msgspec import Struct

from neuron_lib.tally import Tally
from neuron_lib.types import Distribution, EndedLoad, EndedReply, LoadOutcome, LoadStage, ReplyOutcome
from neuron_service.asgi import READING_METHODS
from neuron_service.path_names import OTHER, path_name

__all__ = ("NO_REPLIES", "Answer", "Counts", "ModelCounts", "ReplyCount", "ReplyMeasure", "Tallies")

_MOST_MODELS: Final = 64
"""Models whose replies are counted by name. A host that has served more forgets the one that was unused for longest."""
_WAIT_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_REPLY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
_TOKEN_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_LOAD_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 3600.0)
_LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ANSWER_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_METHODS: Final = READING_METHODS | {"POST"}
_TOKENS: Final = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


class ReplyCount(Enum):
    """What is counted of the replies of a model."""

    RETRIED = auto()
    PROMPT_TOKENS = auto()
    CACHED_TOKENS = auto()
    COMPLETION_TOKENS = auto()
    REASONING_TOKENS = auto()


class ReplyMeasure(Enum):
    """What is measured of each reply of a model: seconds, or tokens."""

    FIRST_TOKEN_S = auto()
    QUEUE_S = auto()
    PREFILL_S = auto()
    DECODE_S = auto()
    TOTAL_S = auto()
    TOKEN_S = auto()
    PROMPT_SIZE = auto()
    COMPLETION_SIZE = auto()


_BOUNDS: Final[Mapping[ReplyMeasure, tuple[float, ...]]] = {
    ReplyMeasure.FIRST_TOKEN_S: _WAIT_S,
    ReplyMeasure.QUEUE_S: _WAIT_S,
    ReplyMeasure.PREFILL_S: _WAIT_S,
    ReplyMeasure.DECODE_S: _REPLY_S,
    ReplyMeasure.TOTAL_S: _REPLY_S,
    ReplyMeasure.TOKEN_S: _TOKEN_S,
    ReplyMeasure.PROMPT_SIZE: _TOKENS,
    ReplyMeasure.COMPLETION_SIZE: _TOKENS,
}


class Answer(NamedTuple):
    """What an answer is counted by. `path` is a `path_name`. `status` is "none" if the client left before it."""

    method: str
    path: str
    status: str


class ModelCounts(Struct, frozen=True, kw_only=True):
    """The counts of the replies of one model at one moment.

    `outcomes` counts the replies by the finish reason of their first choice, or by the `ReplyOutcome` of one that is
    not finished.
    """

    outcomes: Mapping[str, int]
    counts: Mapping[ReplyCount, int]
    measures: Mapping[ReplyMeasure, Distribution]


class Counts(Struct, frozen=True, kw_only=True):
    """All counts at one moment. `stages_s` has the seconds of the stages of loads that ended with success.

    `answers_s` has the seconds that answers to `GET` took, by their `path_name`.
    """

    models: Mapping[str, ModelCounts]
    loads: Mapping[LoadOutcome, int]
    stages_s: Mapping[LoadStage, Distribution]
    fetched_bytes: int
    loop_lag_s: Distribution
    answers: Mapping[Answer, int]
    answers_s: Mapping[str, Distribution]


class _ModelTallies:
    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._counts = dict.fromkeys(ReplyCount, 0)
        self._measures = {measure: Tally(_BOUNDS[measure]) for measure in ReplyMeasure}

    def show(self) -> ModelCounts:
        return ModelCounts(
            outcomes=dict(self._outcomes),
            counts=self._counts.copy(),
            measures={measure: tally.show() for measure, tally in self._measures.items()},
        )

    def take(self, ended: EndedReply) -> None:
        """Its tokens and its wait count however it ended, its other times only if it is finished."""
        usage, counts = ended.usage, self._counts
        is_finished = ended.outcome is ReplyOutcome.FINISHED
        self._outcomes[ended.finish_reasons[0] if is_finished else ended.outcome] += 1
        counts[ReplyCount.RETRIED] += ended.retried
        counts[ReplyCount.PROMPT_TOKENS] += usage.prompt_tokens
        counts[ReplyCount.CACHED_TOKENS] += usage.cached_tokens
        counts[ReplyCount.COMPLETION_TOKENS] += usage.completion_tokens
        counts[ReplyCount.REASONING_TOKENS] += usage.reasoning_tokens
        self._add(ReplyMeasure.QUEUE_S, ended.queue_s)
        if ended.first_event_s is not None and not ended.whole:
            self._add(ReplyMeasure.FIRST_TOKEN_S, ended.first_event_s)
        if is_finished:
            self._take_finished(ended)

    def _take_finished(self, ended: EndedReply) -> None:
        usage, choices = ended.usage, len(ended.finish_reasons)
        self._add(ReplyMeasure.PREFILL_S, usage.prefill_ms / 1000)
        self._add(ReplyMeasure.DECODE_S, usage.decode_ms / 1000)
        self._add(ReplyMeasure.TOTAL_S, ended.total_s)
        self._add(ReplyMeasure.PROMPT_SIZE, usage.prompt_tokens)
        self._add(ReplyMeasure.COMPLETION_SIZE, usage.completion_tokens)
        further = usage.completion_tokens // choices - 1  # the first token of a choice comes out of prefill
        if further > 0:
            self._add(ReplyMeasure.TOKEN_S, usage.decode_ms / 1000 / further)

    def _add(self, measure: ReplyMeasure, value: float) -> None:
        self._measures[measure].add(value)


NO_REPLIES: Final = _ModelTallies().show()
"""The counts of a model that has made no reply so far."""


class Tallies:
    """The counts of one host. Lives as long as the process. Belongs to the event loop."""

    def __init__(self) -> None:
        self.loop_lag_s = Tally(_LAG_S)
        self._models: dict[str, _ModelTallies] = {}  # the one that has ended a reply last at the end
        self._loads = dict.fromkeys(LoadOutcome, 0)
        self._stages_s = {stage: Tally(_LOAD_S) for stage in LoadStage}
        self._fetched_bytes = 0
        self._answers: Counter[Answer] = Counter()
        self._answers_s: dict[str, Tally] = {}

    def __repr__(self) -> str:
        return f"<Tallies of {len(self._models)} models, {self._loads}>"

    def show(self) -> Counts:
        """The counts now."""
        return Counts(
            models={model_id: model.show() for model_id, model in self._models.items()},
            loads=self._loads.copy(),
            stages_s={stage: tally.show() for stage, tally in self._stages_s.items()},
            fetched_bytes=self._fetched_bytes,
            loop_lag_s=self.loop_lag_s.show(),
            answers=dict(self._answers),
            answers_s={path: tally.show() for path, tally in self._answers_s.items()},
        )

    def take_answer(self, method: str, path: str, status: int | None, took_s: float) -> None:
        """Count an answer that has ended, and that took so long since the request's head was there."""
        name = path_name(path)
        self._answers[Answer(method if method in _METHODS else OTHER, name, str(status or "none"))] += 1
        if method == "GET":
            self._answers_s.setdefault(name, Tally(_ANSWER_S)).add(took_s)

    def take_reply(self, ended: EndedReply) -> None:
        """Count a reply that has ended, if it had a seat: one without would hide how long the others take.

        For `Registry(on_reply=…)`.
        """
        if not ended.had_seat:
            return
        model = self._models.pop(ended.model_id, None) or _ModelTallies()
        self._models[ended.model_id] = model
        if len(self._models) > _MOST_MODELS:
            del self._models[next(iter(self._models))]
        model.take(ended)

    def take_load(self, ended: EndedLoad) -> None:
        """Count a load that has ended; for `Registry(on_load=…)`. The stages of a load that failed do not count."""
        self._loads[ended.outcome] += 1
        self._fetched_bytes += ended.fetched_bytes
        if ended.outcome is LoadOutcome.LOADED:
            for stage, seconds in ended.stages_s:
                self._stages_s[stage].add(seconds)
