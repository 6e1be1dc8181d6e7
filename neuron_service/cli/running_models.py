"""`neuron load` and `unload`: the models of a running service."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from neuron_lib.types import LoadingModel
from neuron_service.cli.long_call import LONGEST_CALL_S, run_beside
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.resident_table import ask_residents
from neuron_service.cli.residents import NOT_NEURON
from neuron_service.cli.screen import print_json, shown, waiting
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import not_neuron

__all__ = ("load_model", "unload_model")

_REFUSED: Final = 400
_INTERRUPTED: Final = 130


def load_model(
    client: Client, model_id: str, *, quant: str | None, harness: str | None, devices: Sequence[int], as_json: bool
) -> int:
    """Load a model, with the progress of the load on stderr. Returns the exit status.

    The load goes on if the command is interrupted.
    """
    wanted: dict[str, Any] = {"model_id": model_id, "quant": quant, "harness": harness, "devices": list(devices)}
    body = {name: value for name, value in wanted.items() if value}
    try:
        with ProgressLine(sys.stderr, label=shown(model_id)) as line:
            run_beside(
                lambda: client.post("/models/load", body, timeout_s=LONGEST_CALL_S), _reporter(client, model_id, line)
            )
    except DaemonProblem as problem:
        if problem.status != _REFUSED or not _is_loaded(client, model_id):
            raise
    except KeyboardInterrupt:
        print(f"neuron: interrupted; the load goes on, and `neuron unload {shown(model_id)}` ends it", file=sys.stderr)
        return _INTERRUPTED
    _say(model_id, "loaded", as_json=as_json)
    return 0


def unload_model(client: Client, model_id: str, *, as_json: bool) -> int:
    """Unload a model, and say meanwhile how many replies the unload waits for. Returns the exit status."""
    with waiting(f"unloading {model_id}") as say:

        def watch() -> None:
            _, found = ask_residents(client)
            for each in found:
                if each.id == model_id and each.detail:
                    say(f"unloading {model_id}: {each.detail}")

        run_beside(lambda: client.post("/models/unload", {"model_id": model_id}, timeout_s=LONGEST_CALL_S), watch)
    _say(model_id, "unloaded", as_json=as_json)
    return 0


def _reporter(client: Client, model_id: str, line: ProgressLine) -> Callable[[], None]:
    """What asks how far the load is and shows it. The daemon may name the model by another spelling of its id."""

    def report() -> None:
        answer = client.get("/models/loading")
        try:
            loads = msgspec.convert(answer, tuple[LoadingModel, ...])
        except msgspec.ValidationError as error:
            raise not_neuron(client.address, str(error)) from error
        for load in [each for each in loads if each.model_id == model_id] or (loads if len(loads) == 1 else ()):
            line.report(load.progress)

    return report


def _is_loaded(client: Client, model_id: str) -> bool:
    """Whether the service has the model. `model_id` may be any spelling of its id."""
    try:
        found = client.get(f"/v1/models/{quote(model_id, safe='/:')}")
        return any(model["id"] == found["id"] for model in client.get("/models"))
    except (DaemonProblem, *NOT_NEURON):
        return False


def _say(model_id: str, status: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"model_id": model_id, "status": status})
    else:
        print(f"{shown(model_id)} is {status}")
