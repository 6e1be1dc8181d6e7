"""`neuron ls`."""

import click

from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("ls",)


@click.command()
@json_option
@with_config()
def ls(options: ConfigOptions, *, as_json: bool) -> int:
    """List the models in the cache."""
    from neuron_service.cli.models import list_models

    return list_models(options, as_json=as_json)
