"""`neuron pull`."""

from collections.abc import Sequence

import click

from neuron_service.cli.options import ConfigOptions, json_option, quant_option, with_config

__all__ = ("pull",)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@quant_option
@click.option("--revision", help="The branch, tag or commit, before that of the entry.")
@json_option
@with_config()
def pull(options: ConfigOptions, *, ids: Sequence[str], quant: str | None, revision: str | None, as_json: bool) -> int:
    """Fetch models, or the newest commit of them, into the cache.

    ID is [source:]org/name[:quant], or the id of a [[models]] entry.
    """
    from neuron_service.cli.models import pull_models

    return pull_models(options, ids, quant=quant, revision=revision, as_json=as_json)
