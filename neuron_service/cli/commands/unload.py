"""`neuron unload`."""

from typing import TYPE_CHECKING

import click

from neuron_service.cli.completion import complete_resident_models
from neuron_service.cli.daemon import with_daemon
from neuron_service.cli.options import json_option

if TYPE_CHECKING:
    from neuron_service.client.client import Client

__all__ = ("unload",)


@click.command()
@click.argument("model_id", metavar="MODEL", shell_complete=complete_resident_models)
@json_option
@with_daemon
def unload(client: "Client", *, model_id: str, as_json: bool) -> int:
    """Unload a model of a running service.

    Running replies may end first. The command ends when the memory of the model is free again.
    """
    from neuron_service.cli.running_models import unload_model

    return unload_model(client, model_id, as_json=as_json)
