"""`neuron rm`."""

import click

from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("rm",)


@click.command()
@click.argument("model_id", required=False, metavar="[ID]")
@click.option("--quant", help="Which of its files, such as Q4_K_M. Default: that of the entry, else all.")
@click.option("--partials", is_flag=True, help="Delete the downloads that nobody finished.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@with_config()
def rm(
    options: ConfigOptions, *, model_id: str | None, quant: str | None, partials: bool, yes: bool, as_json: bool
) -> int:
    """Delete a model from the cache."""
    if partials == (model_id is not None):
        raise click.UsageError("name either an ID or --partials")
    if partials and quant is not None:
        raise click.UsageError("--partials deletes downloads of every quant, so it cannot be used with --quant")
    if as_json and not (yes or partials):
        raise click.UsageError("--json is for programs, which cannot be asked; say --yes too")
    from neuron_service.cli.models import remove_models

    return remove_models(options, model_id, quant=quant, confirmed=yes, as_json=as_json)
