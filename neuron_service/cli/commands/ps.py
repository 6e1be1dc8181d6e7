"""`neuron ps`."""

import sys
from typing import TYPE_CHECKING

import click

from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import json_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("ps",)


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Show it again each second, until Ctrl-C.")
@json_option
@with_daemon
def ps(client: "Client", *, watch: bool, as_json: bool) -> int:
    """Show the models of a running service.

    Shows their states, requests, speed and memory, and the progress of loads.
    """
    from neuron_service.cli.resident_table import show_residents, watch_residents

    if watch:
        if as_json or not sys.stdout.isatty():
            raise click.UsageError("--watch is for a terminal; a program follows `neuron events --json`")
        return watch_residents(client)
    return show_residents(client, as_json=as_json)
