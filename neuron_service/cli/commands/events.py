"""`neuron events`."""

from typing import TYPE_CHECKING

import click

from neuron_service.cli.daemon import with_daemon

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("events",)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON, for programs.")
@click.option(
    "--since",
    metavar="ID",
    help="Begin after the event with this id, or with `start` at the oldest one that the service still has.",
)
@with_daemon
def events(client: "Client", *, as_json: bool, since: str | None) -> int:
    """Follow what happens on a host.

    State changes, progress of loads, restarts, refusals and ended replies, until Ctrl-C.
    """
    if since is not None and not (since.isascii() and since.isprintable()):
        raise click.UsageError(f"--since: {since!r} is the id of no event")
    from neuron_service.cli.events import follow_events

    return follow_events(client, as_json=as_json, since=since)
