"""`neuron load` and `unload`: the models of a running service."""

import sys
from collections.abc import Sequence
from typing import Any

from neuron_service.cli.daemon_load import load_in_daemon
from neuron_service.cli.long_call import LONGEST_CALL_S, run_beside
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.resident_table import ask_residents
from neuron_service.cli.screen import print_json, shown, waiting
from neuron_service.cli.terminal import INTERRUPTED, complain
from neuron_service.client.client import Client

__all__ = ("load_model", "unload_model")


def load_model(
    client: Client, model_id: str, *, quant: str | None, harness: str | None, devices: Sequence[int], as_json: bool
) -> int:
    """Load a model, with the progress of the load on stderr. Returns the exit status.

    The load goes on if the command is interrupted.
    """
    wanted: dict[str, Any] = {"quant": quant, "harness": harness, "devices": list(devices)}
    body = {"model_id": model_id} | {name: value for name, value in wanted.items() if value}
    try:
        with ProgressLine(sys.stderr, label=shown(model_id)) as line:
            load_in_daemon(client, body, line.report)
    except KeyboardInterrupt:
        complain(f"interrupted; the load goes on, and `neuron unload {shown(model_id)}` ends it")
        return INTERRUPTED
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


def _say(model_id: str, status: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"model_id": model_id, "status": status})
    else:
        print(f"{shown(model_id)} is {status}")
