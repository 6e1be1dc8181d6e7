"""`neuron show`."""

import click

from neuron_service.cli.completion import complete_known_models
from neuron_service.cli.daemon import host_option
from neuron_service.cli.options import ConfigOptions, json_option, quant_option, with_config

__all__ = ("show",)


@click.command()
@click.argument("model_id", metavar="MODEL", shell_complete=complete_known_models)
@quant_option
@host_option
@json_option
@with_config()
def show(options: ConfigOptions, *, model_id: str, quant: str | None, host: str | None, as_json: bool) -> int:
    """Show what is known about a model.

    MODEL is the path of a GGUF file, [source:]org/name[:quant], or an id of the configuration. The header of its file
    is read, and a running service is asked. With --host only that service is asked. Nothing is loaded or fetched.
    """
    from neuron_service.cli.show import show_model

    return show_model(options, host, model_id, quant=quant, as_json=as_json)
