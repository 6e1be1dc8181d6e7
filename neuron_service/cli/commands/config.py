"""`neuron config`."""

from pathlib import Path

import click

from neuron_service.cli.command_group import CommandGroup
from neuron_service.cli.command_table import CONFIG_COMMANDS
from neuron_service.cli.options import ConfigOptions, ServeOptions, json_option, with_config

__all__ = ("check", "config", "init", "schema", "show")

config = CommandGroup("config", CONFIG_COMMANDS, help="Work with the configuration file.")


@click.command()
@json_option
@with_config(log_level="info")
def check(options: ConfigOptions, *, as_json: bool) -> int:
    """Say whether the configuration can work on this host."""
    from neuron_service.cli.serve import check_configuration

    wanted = ServeOptions(config=options.config, log_level=options.log_level, check_config=True)
    return check_configuration(wanted, as_json=as_json)


@click.command()
@click.option("--given", "only_given", is_flag=True, help="Leave out what nobody has set.")
@json_option
@with_config()
def show(options: ConfigOptions, *, only_given: bool, as_json: bool) -> int:
    """Print the configuration that counts, and where each value came from.

    The result is a file that means the same. A remark behind a value names the file or the variable that gave it; a
    value without a remark is the default.
    """
    if only_given and as_json:
        raise click.UsageError("--json has every key and says in `origins` which were given, so it takes no --given")
    from neuron_service.cli.config_file import show_config

    return show_config(options, only_given=only_given, as_json=as_json)


@click.command()
def schema() -> int:
    """Print a JSON Schema of the file, for editors and other programs."""
    from neuron_service.cli.config_file import show_schema

    return show_schema()


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("neuron.toml"),
    metavar="FILE",
    help="The file to write; - prints it. Default: neuron.toml.",
)
@click.option("--force", "overwrites", is_flag=True, help="Replace a file that is there.")
def init(*, models: tuple[str, ...], output: Path, overwrites: bool) -> int:
    """Write a first configuration file, which loads each MODEL at the start.

    MODEL is a GGUF file, or org/name[:quant] of Hugging Face.
    """
    from neuron_service.cli.config_file import write_first_file

    return write_first_file(models, output=output, overwrites=overwrites)
