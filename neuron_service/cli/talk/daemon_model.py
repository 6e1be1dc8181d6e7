"""Which model of a daemon a person means."""

import os
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from neuron_lib.harness import ProgressReporter
from neuron_lib.types import names_model
from neuron_service.cli.daemon_load import load_in_daemon, running_loads
from neuron_service.cli.talk.pieces import SpeakerFailed
from neuron_service.client.client import Client

__all__ = ("only_model", "require_model")

_LOOK_S: Final = 0.25


def require_model(client: Client, model_id: str, report: ProgressReporter) -> None:
    """Have the daemon load this model, unless it serves it, or will when it is asked. Raises `DaemonProblem`."""
    if _is_resident(client, model_id):
        return
    if "/" not in model_id:
        client.get(
            f"/v1/models/{quote(model_id, safe='', errors='replace')}"
        )  # a further name of a model, or none at all
        return
    load_in_daemon(client, {"model_id": model_id}, report)


def only_model(client: Client, report: ProgressReporter) -> str:
    """The id of the only model that a daemon has loaded and that writes text.

    A daemon that has just started is waited for until it has loaded its default models; `report` is told of the
    progress. Raises `SpeakerFailed` and `DaemonProblem`.
    """
    ids = _resident(client.get("/models"), capability="text")
    while not ids and _is_starting(client.get("/health")):
        for load in running_loads(client):
            report(load.progress)
        time.sleep(_LOOK_S)
        ids = _resident(client.get("/models"), capability="text")
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise SpeakerFailed(f"several models are loaded at {client.address}: {', '.join(ids)}; name one of them")
    raise SpeakerFailed(
        f"no model is loaded at {client.address}; name the one to load: a GGUF file, org/name[:quant], or an id of its"
        " configuration",
        exit_status=os.EX_USAGE,
    )


def _is_resident(client: Client, model_id: str) -> bool:
    return any(names_model(model_id, each, quant=None) for each in _resident(client.get("/models")))


def _is_starting(health: Any) -> bool:
    """Whether the daemon still loads its default models, by its answer to `GET /health`."""
    activation = health.get("activation") if isinstance(health, Mapping) else None
    return isinstance(activation, Mapping) and activation.get("state") == "pre_warming"


def _resident(models: Any, *, capability: str | None = None) -> list[str]:
    """The ids in an answer of `GET /models`, of the models with this capability."""
    found = [each for each in models if isinstance(each, Mapping)] if isinstance(models, list) else []
    wanted = [each for each in found if capability is None or capability in (each.get("capabilities") or ())]
    return [str(each.get("id")) for each in wanted]
