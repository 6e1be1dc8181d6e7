"""Loads the configured models when a service activates: in order, one at a time, each failure logged and survived."""

import time
from collections.abc import Sequence
from typing import Final

import anyio

from neuron_lib.activation import ActivationTracker
from neuron_lib.errors import AlreadyLoaded, Overloaded, PreflightFailed, ShuttingDown, SourceUnavailable, cause_chain
from neuron_lib.logs import get_logger
from neuron_lib.registry import Registry
from neuron_lib.types import ModelSpec, public_id

__all__ = ("RETRY_DELAYS_S", "load_default_models")

logger = get_logger(__name__)

RETRY_DELAYS_S: Final = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Pauses before models whose source did not answer get another turn (wire contract §5)."""


async def load_default_models(
    registry: Registry,
    specs: Sequence[ModelSpec],
    tracker: ActivationTracker,
    *,
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> None:
    """Load `specs` strictly in order and report every step to `tracker`, which becomes ready at the end.

    Never raises for a model: a failure is logged as a WARNING with its whole cause chain, recorded, and the next
    entry gets its turn. Those whose source was unavailable get more turns, after the others and after each of
    `retry_delays_s`, before they count as failed. A model that somebody else loads in the meantime counts as completed;
    of two entries for one id the first counts. An empty list logs nothing. From now on `registry` follows `tracker`.

    Raises `ShuttingDown` when the registry admits no more: what was not loaded by then has not failed.

    Meant to run in the background, after the service has bound its socket, so that the host answers meanwhile.
    """
    registry.follow(tracker)
    due = _one_per_id(specs)
    if due:
        logger.info("loading default models", extra={"count": len(due)})
    for attempt, retry_in_s in enumerate((*retry_delays_s, None), start=1):
        due = [spec for spec in due if not await _settle(registry, spec, tracker, attempt, retry_in_s)]
        if not due or retry_in_s is None:
            break
        tracker.pause_until_retry(retry_in_s)
        with anyio.move_on_after(retry_in_s):
            await tracker.wait_settled([public_id(spec.model_id) for spec in due])
    tracker.mark_ready()


def _one_per_id(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    chosen: dict[str, ModelSpec] = {}
    for spec in specs:
        model_id = public_id(spec.model_id)
        if chosen.setdefault(model_id, spec) is not spec:
            logger.warning("default model is listed twice, its first entry counts", extra={"model_id": model_id})
    return list(chosen.values())


async def _settle(
    registry: Registry, spec: ModelSpec, tracker: ActivationTracker, attempt: int, retry_in_s: float | None
) -> bool:
    """Try a model once. False: it is worth another try, `retry_in_s` seconds after this round."""
    model_id = public_id(spec.model_id)
    if tracker.has_completed(model_id):
        logger.info("default model was loaded by somebody else", extra={"model_id": model_id})
        return True
    started_s = time.monotonic()
    tracker.start_loading(model_id)
    try:
        await registry.load(spec)
    except AlreadyLoaded:
        if not tracker.has_completed(model_id):  # it is resident under another id
            tracker.complete_loading(model_id)
        logger.info("default model was loaded by somebody else", extra={"model_id": model_id})
    except ShuttingDown:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not keep the next model or the host from serving
        if tracker.has_completed(model_id):  # somebody else was luckier
            return True
        reason = cause_chain(error)
        if isinstance(error, SourceUnavailable | Overloaded) and retry_in_s is not None:
            tracker.defer_loading(model_id, reason, attempt=attempt, retry_in_s=retry_in_s)
            logger.warning(
                "source of default model unavailable, will retry: %s",
                reason,
                extra={"model_id": model_id, "attempt": attempt, "retry_in_s": retry_in_s},
            )
            return False
        tracker.fail_loading(model_id, reason)
        kind = {"kind": error.kind} if isinstance(error, PreflightFailed) else {}
        logger.warning(
            "failed to load default model, continuing: %s",
            reason,
            extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)} | kind,
        )
    else:
        logger.info("loaded default model", extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)})
    return True


def _elapsed_ms(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)
