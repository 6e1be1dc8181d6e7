"""A group of commands whose declarations are imported when they are needed.

Options of a command may stand before its name: `neuron -c FILE ls` is `neuron ls -c FILE`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Final

import click

from neuron_service.cli.command_table import Entry

__all__ = ("CommandGroup", "split_at_command")

_TEXT_WIDTH: Final = 100


class CommandGroup(click.Group):
    """The commands of a table. `default` is the command of a line that names none; None makes such a line wrong.

    `sections` are the same commands under headings, for the help. `elsewhere` are names that other programs have for
    them.
    """

    def __init__(
        self,
        name: str,
        table: Mapping[str, Entry],
        *,
        help: str,  # noqa: A002 - the name of click
        sections: Mapping[str, Mapping[str, Entry]] | None = None,
        elsewhere: Mapping[str, str] | None = None,
        default: str | None = None,
        epilog: str | None = None,
        params: list[click.Parameter] | None = None,
    ) -> None:
        super().__init__(
            name,
            help=help,
            epilog=epilog,
            params=params,
            no_args_is_help=False,
            subcommand_metavar="COMMAND [ARGUMENTS]",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _TEXT_WIDTH},
        )
        self._table = table
        self._sections = {"Commands": table} if sections is None else sections
        self._elsewhere = {} if elsewhere is None else elsewhere
        self._default = default

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the declaration of a command. None for a name that is none."""
        del ctx
        entry = self._table.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options of the group, and move those that stand before a command behind its name."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        before, command, after = split_at_command(args, self._takes_value)
        kept = [word for word in before if word in own]
        moved = [word for word in before if word not in own]
        if command is not None:
            return super().parse_args(ctx, [*kept, command, *moved, *after])
        if kept or ctx.resilient_parsing:  # a shell asks which commands there are
            return super().parse_args(ctx, kept)
        if self._default is None:
            raise click.UsageError(f"name a command: {self._names()}", ctx)
        return super().parse_args(ctx, [self._default, *moved])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names. Raises `click.UsageError` for a word that names none."""
        if args[0] not in self._table and not ctx.resilient_parsing:
            raise click.UsageError(self._unknown(ctx, args[0]), ctx)
        return super().resolve_command(ctx, args)

    def owners(self, option: str) -> list[str]:
        """The commands that have this option, as they are typed after this group's own name. Imports all commands."""
        found: list[str] = []
        for name in self._table:
            command = self._declared(name)
            if isinstance(command, CommandGroup):
                found.extend(f"{name} {each}" for each in command.owners(option))
            elif any(option in parameter.opts for parameter in command.params):
                found.append(name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands under their headings. Imports none of them."""
        del ctx
        width = max(map(len, self._table))
        for heading, table in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), entry.text) for name, entry in table.items()])

    def _declared(self, name: str) -> click.Command:
        command = self.get_command(click.Context(self), name)
        assert command is not None
        return command

    def _takes_value(self, option: str) -> bool:
        """Whether any command's option of this name is followed by a value."""
        commands = [self._declared(name) for name in ([self._default] if self._default else [])]
        for command in commands:
            for parameter in command.params:
                if option in parameter.opts:
                    return not getattr(parameter, "is_flag", False)
        return any(self._follows(self._declared(name), option) for name in self._table)

    def _follows(self, command: click.Command, option: str) -> bool:
        if isinstance(command, CommandGroup):
            return command._takes_value(option)
        return any(
            option in parameter.opts and not getattr(parameter, "is_flag", False) for parameter in command.params
        )

    def _names(self) -> str:
        *first, last = self._table
        return f"{', '.join(first)} or {last}" if first else last

    def _unknown(self, ctx: click.Context, word: str) -> str:
        near = difflib.get_close_matches(word.lower(), self._table, n=1)
        meant = self._elsewhere.get(word.lower(), near[0] if near else None)
        question = f"did you mean `{ctx.command_path} {meant}`? " if meant in self._table else ""
        return f"there is no command {word!r}; {question}commands: {self._names()}"


def split_at_command(
    arguments: Sequence[str], takes_value: Callable[[str], bool]
) -> tuple[list[str], str | None, list[str]]:
    """What stands before the first word that is no option, that word, and what stands behind it.

    `takes_value` says whether an option is followed by a value. The word is None if there is none.
    """
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if not word.startswith("-") or word in {"-", "--"}:
            return [*arguments[:index]], word, [*arguments[index + 1 :]]
        index += 2 if "=" not in word and takes_value(word) else 1
    return [*arguments], None, []
