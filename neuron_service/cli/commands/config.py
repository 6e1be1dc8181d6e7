"""`neuron config`."""

import click

from neuron_service.cli.command_group import CommandGroup
from neuron_service.cli.command_table import CONFIG_COMMANDS
from neuron_service.cli.options import ConfigOptions, ServeOptions, with_config

__all__ = ("check", "config")

config = CommandGroup("config", CONFIG_COMMANDS, help="Work with the configuration file.")


@click.command()
@with_config(log_level="info")
def check(options: ConfigOptions) -> int:
    """Say whether the configuration can work on this host."""
    from neuron_service.cli.serve import check_configuration

    return check_configuration(ServeOptions(config=options.config, log_level=options.log_level, check_config=True))
