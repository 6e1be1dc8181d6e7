"""`neuron config import`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import click

from neuron_service.cli.options import json_option

__all__ = ("Format", "import_config")

Format = Literal["ollama", "llama-swap", "llama-server"]
"""Those of `neuron_service.cli.import_config`, whose imports would delay every help. A test compares them."""


@click.command("import")
@click.argument("format_", metavar="FORMAT", type=click.Choice(get_args(Format)))
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--name", help="What requests call the model. For one Modelfile or command.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there. Default: stdout.")
@json_option
def import_config(
    *, format_: Format, files: Sequence[str], name: str | None, output: Path | None, as_json: bool
) -> int:
    """Make a configuration of the files of another server.

    FORMAT is ollama (Modelfiles, and files with OLLAMA_ variables), llama-swap (its YAML file) or llama-server (its
    command line, or its presets). FILE - is stdin. What cannot be translated is named in the first lines of the result.
    """
    from neuron_service.cli.import_config import import_configuration

    return import_configuration(format_, files, name=name, output=output, as_json=as_json)
