"""`neuron load`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from neuron_service.cli.completion import complete_known_models
from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import json_option, quant_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("load",)


@click.command()
@click.argument("model_id", metavar="MODEL", shell_complete=complete_known_models)
@quant_option
@click.option("--harness", help="Which harness loads the model. Default: the only one.")
@click.option(
    "--device",
    "devices",
    type=click.IntRange(0, 1023),
    multiple=True,
    metavar="INDEX",
    help="A GPU to use. May be given several times. Default: as the configuration says.",
)
@json_option
@with_daemon
def load(
    client: "Client", *, model_id: str, quant: str | None, harness: str | None, devices: Sequence[int], as_json: bool
) -> int:
    """Load a model into a running service.

    MODEL is [source:]org/name[:quant], or an id of the service's configuration. The command ends when the model serves.
    """
    from neuron_service.cli.running_models import load_model

    return load_model(client, model_id, quant=quant, harness=harness, devices=devices, as_json=as_json)
