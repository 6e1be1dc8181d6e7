"""`neuron batch`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import json_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("batch",)


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option("--model", help="Ask this model, whatever the lines name.")
@click.option(
    "--streams",
    type=click.IntRange(1, 1024),
    help="How many requests run at a time. Default: the number of seats of the service.",
)
@json_option
@with_daemon
def batch(
    client: "Client", *, source: Path, target: Path, model: str | None, streams: int | None, as_json: bool
) -> int:
    """Answer the requests of a file.

    INPUT has a request in each line, as OpenAI's batch API wants them. OUTPUT gets a line for each answer. What OUTPUT
    already has is not asked again, so the same command goes on where it was interrupted.
    """
    from neuron_service.cli.batch import run_batch

    return run_batch(client, source, target, model=model, streams=streams, as_json=as_json)
