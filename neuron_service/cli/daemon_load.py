"""A load that a daemon does for a command, and how far the load is."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from neuron_lib.types import LoadingModel, LoadProgress, names_model
from neuron_service.cli.long_call import LONGEST_CALL_S, run_beside
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import NOT_NEURON

__all__ = ("load_in_daemon", "running_loads")

_REFUSED: Final = 400


def load_in_daemon(client: Client, wanted: Mapping[str, Any], report: Callable[[LoadProgress], None]) -> None:
    """Have the daemon load a model, and wait until the model serves. `report` is told of the progress.

    `wanted` is the body of `POST /models/load`. A model that is loaded already is no error. An interrupt ends the wait,
    and the load goes on. Raises `DaemonProblem`.
    """
    model_id: str = wanted["model_id"]

    def watch() -> None:
        loads = running_loads(client)
        named = [load for load in loads if names_model(model_id, load.model_id, quant=None)]
        for load in named or (loads if len(loads) == 1 else ()):  # `model_id` may be a further name of the model
            report(load.progress)

    try:
        run_beside(lambda: client.post("/models/load", wanted, timeout_s=LONGEST_CALL_S), watch)
    except DaemonProblem as problem:
        if problem.status != _REFUSED or not _is_loaded(client, model_id):
            raise


def running_loads(client: Client) -> tuple[LoadingModel, ...]:
    """The loads that run at the daemon. None where the daemon does not say: the load itself says what is wrong."""
    try:
        return msgspec.convert(client.get("/models/loading"), tuple[LoadingModel, ...])
    except (DaemonProblem, msgspec.ValidationError):
        return ()


def _is_loaded(client: Client, model_id: str) -> bool:
    """Whether the daemon has the model. `model_id` may be any name of it."""
    try:
        found = client.get(f"/v1/models/{quote(model_id, safe='/:', errors='replace')}")
        return any(model["id"] == found["id"] for model in client.get("/models"))
    except (DaemonProblem, *NOT_NEURON):
        return False
