"""`neuron ps`, `load` and `unload`: the models of a running service."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from neuron_lib.types import LoadingModel
from neuron_service.cli.long_call import LONGEST_CALL_S, run_beside
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.residents import (
    HEADINGS,
    NOT_NEURON,
    OTHER_HEADINGS,
    RIGHT,
    Resident,
    cells,
    describe_host,
    residents,
    style,
    to_json,
)
from neuron_service.cli.screen import print_json, print_table, shown, waiting
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import not_neuron

__all__ = ("load_model", "show_residents", "unload_model")

_REFUSED: Final = 400
_INTERRUPTED: Final = 130


def show_residents(client: Client, *, as_json: bool) -> int:
    """Print the models of the service. Returns the exit status."""
    health, found = _ask(client)
    if as_json:
        print_json({"models": [to_json(each) for each in found]})
        return 0
    if not found:
        print(f"no models at {client.address}; `neuron load MODEL` loads one")
    serving = [each for each in found if each.serves]
    others = [each for each in found if not each.serves]
    if serving:
        print_table(HEADINGS, list(map(cells, serving)), right=RIGHT, styles=list(map(_state_style, serving)))
        for each in serving:
            if each.detail:
                print(shown(f"{each.id}: {each.detail}"))
    if serving and others:
        print()
    if others:
        rows = [(each.id, each.state, each.detail) for each in others]
        print_table(OTHER_HEADINGS, rows, styles=list(map(_state_style, others)))
    if found and health:
        print()
    for line in health:
        print(line)
    return 0


def _state_style(resident: Resident) -> tuple[str, str]:
    return "STATE", style(resident)


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
            _, found = _ask(client)
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


def _ask(client: Client) -> tuple[list[str], list[Resident]]:
    """Lines about the host, and the models of the service."""
    health, models = client.get("/health"), client.get("/models")
    try:
        return describe_host(health), residents(health, models)
    except NOT_NEURON as error:
        raise not_neuron(client.address, f"its answer lacks {error}") from error


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
