"""Turns what changes in a registry into events: compares each model with what was last told of it.

Looks and tells. Decides nothing about the models.
"""

from functools import partial
from typing import Final, Literal

from msgspec import Struct

from neuron_lib.errors import NeuronError, RequestRejected, cause_chain
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.event_log import EventLog
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.shown import LONGEST_CHAIN, bounded, clip, one_word
from neuron_lib.types import (
    EndedReply,
    HostState,
    HostStateEvent,
    LoadProgress,
    ModelEvent,
    ModelPhase,
    Principal,
    ProgressEvent,
    RejectionEvent,
    Reload,
    ReloadEvent,
    ReplyEvent,
    ReplyOutcome,
    RestartEvent,
)

__all__ = ("Reporter",)

logger: FieldLogger = get_logger(__name__)


class _Told(Struct, frozen=True, kw_only=True):
    """What was last told of a model. `death` is that of its last engine."""

    phase: ModelPhase | None = None
    progress: LoadProgress | None = None
    restarts: int = 0
    death: str = ""


_NOTHING: Final = _Told()


class Reporter:
    """Writes the events of one registry into `log`. Never waits, and an error of a harness goes no further."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._told: dict[str, _Told] = {}
        self._state: HostState | None = None

    def look(self, model: HostedModel) -> None:
        """Tell what is new of a model. Called after each change, and each second for what its harness does by itself.

        So a restart of an engine is told a second late at most.
        """
        before, now = self._told.get(model.model_id, _NOTHING), _seen(model)
        if now == before:
            return
        if now.phase is ModelPhase.GONE:
            self._told.pop(model.model_id, None)
        else:
            self._told[model.model_id] = now
        if now.restarts > before.restarts:
            self._log.add(partial(RestartEvent, model_id=model.model_id, restarts=now.restarts, death=now.death))
        if now.phase is not None and now.phase is not before.phase:
            error = model.load_failure or model.unload_failure
            reason = _reason(model, now) if error is None else cause_chain(error)
            code = None if error is None else error.code
            self._log.add(partial(ModelEvent, model_id=model.model_id, phase=now.phase, reason=reason, code=code))
        if now.progress != before.progress and now.progress is not None:
            load = model.as_loading()
            self._log.add(
                partial(ProgressEvent, model_id=load.model_id, progress=load.progress, elapsed_ms=load.elapsed_ms)
            )

    def look_at_host(self, state: HostState) -> None:
        """Tell the state of the host if it is another one."""
        if state is not self._state:
            self._state = state
            self._log.add(partial(HostStateEvent, state=state))

    def refuse_request(
        self, error: NeuronError, *, model_id: str, request_id: str, principal: Principal | None
    ) -> None:
        """Tell that a request was refused before its reply began."""
        self._refuse("request", error, model_id, request_id=request_id, principal=principal)

    def refuse_load(self, error: NeuronError, *, model_id: str) -> None:
        """Tell that a load was refused before it began."""
        self._refuse("load", error, model_id)

    def _refuse(
        self,
        what: Literal["request", "load"],
        error: NeuronError,
        model_id: str,
        *,
        request_id: str = "",
        principal: Principal | None = None,
    ) -> None:
        self._log.add(
            partial(
                RejectionEvent,
                what=what,
                model_id=clip(model_id),
                code=error.code,
                reason=error.log_message,
                retry_after_s=error.retry_after_s if isinstance(error, RequestRejected) else None,
                request_id=one_word(request_id),
                principal=_pseudonym(principal),
            )
        )

    def end_reload(self, reload: Reload) -> None:
        """Tell that the configuration was read again."""
        error = None if reload.error is None else clip(reload.error, LONGEST_CHAIN)
        self._log.add(partial(ReloadEvent, error=error, needs_restart=bounded(reload.needs_restart)))

    def end_reply(self, ended: EndedReply) -> None:
        """Tell that a reply has ended. A `Tokenize` or a `Detokenize` is not worth an event."""
        if not ended.had_seat:
            return
        usage, is_finished = ended.usage, ended.outcome is ReplyOutcome.FINISHED
        self._log.add(
            partial(
                ReplyEvent,
                model_id=ended.model_id,
                outcome=ended.outcome,
                error=ended.error,
                finish_reasons=ended.finish_reasons,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                completion_tokens=usage.completion_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                queue_ms=round(ended.queue_s * 1000),
                ttft_ms=None if ended.first_event_s is None else round(ended.first_event_s * 1000),
                prefill_ms=usage.prefill_ms if is_finished else 0,
                decode_ms=usage.decode_ms if is_finished else 0,
                total_ms=round(ended.total_s * 1000),
                retried=ended.retried,
                request_id=one_word(ended.request_id),
                principal=_pseudonym(ended.principal),
            )
        )


def _seen(model: HostedModel) -> _Told:
    if model.is_loading:
        return _Told(phase=ModelPhase.LOADING, progress=model.progress)
    phase = model.phase
    if not phase.serves:
        return _Told(phase=phase)
    try:
        load = model.loaded.load()
    except Exception:  # a harness with a bug must not keep its model from being told of
        logger.exception("a model cannot report its load", extra={"model_id": model.model_id})
        return _Told(phase=phase)
    return _Told(phase=phase, restarts=load.engine_restarts, death=load.last_engine_death)


def _reason(model: HostedModel, now: _Told) -> str | None:
    """Why a model whose harness has raised nothing is in this phase; None if that was asked for."""
    return now.death or None if now.phase is ModelPhase.RECOVERING else model.loss


def _pseudonym(principal: Principal | None) -> str | None:
    return None if principal is None else principal.pseudonym
