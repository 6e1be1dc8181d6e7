"""`neuron ps`: the models of a running service. Imports little, because a person waits for it."""

import time

from neuron_lib.shown import printable
from neuron_service.cli.residents import (
    HEADINGS,
    OTHER_HEADINGS,
    RIGHT,
    Resident,
    cells,
    describe_host,
    residents,
    style,
    to_json,
)
from neuron_service.cli.screen import print_json, print_table, shown, whole_screen
from neuron_service.client.client import Client
from neuron_service.client.translation import NOT_NEURON, lacking

__all__ = ("ask_residents", "show_residents", "watch_residents")


def show_residents(client: Client, *, as_json: bool) -> int:
    """Print the models of the service. Returns the exit status."""
    health, found = ask_residents(client)
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
        print(printable(line))
    return 0


def _state_style(resident: Resident) -> tuple[str, str]:
    return "STATE", style(resident)


def watch_residents(client: Client, *, pause_s: float = 1.0) -> int:
    """Show the models of the service again each `pause_s`, until Ctrl-C. Returns the exit status.

    Raises `DaemonProblem` as soon as the service does not answer.
    """
    with whole_screen() as clear:
        try:
            while True:
                clear()
                show_residents(client, as_json=False)
                time.sleep(pause_s)
        except KeyboardInterrupt:
            return 0


def ask_residents(client: Client) -> tuple[list[str], list[Resident]]:
    """Lines about the host, and the models of the service. Raises `DaemonProblem`."""
    health, models = client.get("/health"), client.get("/models")
    try:
        return describe_host(health), residents(health, models)
    except NOT_NEURON as error:
        raise lacking(client.address, error) from error
