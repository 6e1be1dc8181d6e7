"""`neuron stop`."""

from typing import TYPE_CHECKING

import click

from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import Number, json_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("stop",)


@click.command()
@click.option("--now", is_flag=True, help="End running replies instead of waiting for them.")
@click.option(
    "--timeout",
    "limit_s",
    type=Number(0, 86400),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the end.",
)
@json_option
@with_daemon
def stop(client: "Client", *, now: bool, limit_s: float, as_json: bool) -> int:
    """Stop the service on this machine.

    The service drains: running replies may end first. A service of systemd is stopped by `systemctl stop`.
    """
    from neuron_service.cli.stop import stop_service

    return stop_service(client, now=now, limit_s=limit_s, as_json=as_json)
