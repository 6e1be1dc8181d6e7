"""`neuron ps`."""

from typing import TYPE_CHECKING

import click

from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import json_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("ps",)


@click.command()
@json_option
@with_daemon
def ps(client: "Client", *, as_json: bool) -> int:
    """Show the models of a running service.

    Shows their states, requests, speed and memory, and the progress of loads.
    """
    from neuron_service.cli.running_models import show_residents

    return show_residents(client, as_json=as_json)
