"""`neuron help`."""

from collections.abc import Sequence

import click

__all__ = ("show_help",)


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]")
@click.pass_context
def show_help(context: click.Context, words: Sequence[str]) -> None:
    """Show the list of commands, or the help of one command."""
    above = context.parent
    assert above is not None
    found = above
    for word in words:
        if not isinstance(found.command, click.Group):
            raise click.UsageError(f"`{found.command_path}` has no commands of its own", found)
        _, command, _ = found.command.resolve_command(found, [word])
        assert command is not None
        found = click.Context(command, info_name=word, parent=found)
    click.echo(found.get_help())
