"""`neuron key`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import click

from neuron_service.cli.command_group import CommandGroup
from neuron_service.cli.command_table import KEY_COMMANDS
from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("Scope", "key", "ls", "new", "rm")

Scope = Literal["inference", "admin", "metrics"]
"""Those of `neuron_service.access.scopes`, whose imports would delay every help. A test compares them."""

_file_option = click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file of keys, before `keys_file` of the configuration.",
)

key = CommandGroup("key", KEY_COMMANDS, help="Make, list and delete API keys.")


@click.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(get_args(Scope)),
    help="What the key may do. May be given several times. Default: inference.",
)
@_file_option
@json_option
@with_config()
def new(options: ConfigOptions, *, name: str, scopes: Sequence[Scope], file: Path | None, as_json: bool) -> int:
    """Make an API key and print it, once."""
    from neuron_service.cli.keys import new_key

    return new_key(options, name, scopes=scopes, file=file, as_json=as_json)


@click.command()
@_file_option
@json_option
@with_config()
def ls(options: ConfigOptions, *, file: Path | None, as_json: bool) -> int:
    """List the names and scopes of all keys."""
    from neuron_service.cli.keys import show_keys

    return show_keys(options, file=file, as_json=as_json)


@click.command()
@click.argument("name")
@_file_option
@json_option
@with_config()
def rm(options: ConfigOptions, *, name: str, file: Path | None, as_json: bool) -> int:
    """Delete a key."""
    from neuron_service.cli.keys import delete_key

    return delete_key(options, name, file=file, as_json=as_json)
