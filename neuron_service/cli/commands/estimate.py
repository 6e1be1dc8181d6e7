"""`neuron estimate`."""

import click

from neuron_service.cli.options import ConfigOptions, json_option, quant_option, with_config

__all__ = ("estimate",)


@click.command()
@click.argument("model_id", metavar="ID")
@quant_option
@json_option
@with_config()
def estimate(options: ConfigOptions, *, model_id: str, quant: str | None, as_json: bool) -> int:
    """Say how much memory a model would take.

    ID is [source:]org/name[:quant], the id of a [[models]] entry, or a GGUF file.
    """
    from neuron_service.cli.estimate import run_estimate_command

    return run_estimate_command(options, model_id, quant=quant, as_json=as_json)
