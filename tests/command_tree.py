"""The commands of `neuron`, for tests about all of them."""

from collections.abc import Iterator

import click

from neuron_service.cli.command_group import CommandGroup
from neuron_service.cli.program import ROOT

__all__ = ("EVERY_COMMAND",)


def _commands(group: CommandGroup, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, CommandGroup):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


EVERY_COMMAND = dict(_commands(ROOT))
"""All commands that do something, by the words that call them."""
