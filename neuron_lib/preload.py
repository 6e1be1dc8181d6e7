"""Loads the configured models when a service activates: in order, one at a time, each failure logged and survived."""

import logging
import time
from collections.abc import Sequence

from neuron_lib.activation import ActivationTracker
from neuron_lib.errors import AlreadyLoaded, cause_chain
from neuron_lib.registry import Registry
from neuron_lib.types import ModelSpec, public_id

__all__ = ("load_default_models",)

logger = logging.getLogger(__name__)


async def load_default_models(registry: Registry, specs: Sequence[ModelSpec], tracker: ActivationTracker) -> None:
    """Load `specs` strictly in order and report every step to `tracker`, which becomes ready at the end.

    Never raises for a model: a failure is logged as a WARNING with its whole cause chain, recorded, and the next
    entry gets its turn. A model that is resident already counts as completed. An empty list logs nothing.
    Meant to run in the background, after the service has bound its socket, so that the host answers meanwhile.
    """
    specs_by_id = {public_id(spec.model_id): spec for spec in reversed(specs)}  # of two entries the first one counts
    ordered = [specs_by_id[model_id] for model_id in dict.fromkeys(public_id(spec.model_id) for spec in specs)]
    if ordered:
        logger.info("loading default models", extra={"count": len(ordered)})
    for spec in ordered:
        await _load(registry, spec, tracker)
    tracker.mark_ready()


async def _load(registry: Registry, spec: ModelSpec, tracker: ActivationTracker) -> None:
    model_id = public_id(spec.model_id)
    started_s = time.monotonic()
    tracker.start_loading(model_id)
    try:
        await registry.load(spec)
    except AlreadyLoaded:
        tracker.complete_loading(model_id)
        logger.info("default model was resident already", extra={"model_id": model_id})
    except Exception as error:
        # Whatever it is, a model that does not load must not keep the next one, or the host, from serving.
        reason = cause_chain(error)
        tracker.fail_loading(model_id, reason)
        logger.warning(
            "failed to load default model, continuing: %s",
            reason,
            extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)},
        )
    else:
        tracker.complete_loading(model_id)
        logger.info("loaded default model", extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)})


def _elapsed_ms(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)
