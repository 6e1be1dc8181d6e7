"""The program: reads the command line, runs one command, ends with its status.

The modules of a command are imported when the command runs. Help, usage errors and `neuron ls` import no web server.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from neuron_service.cli.command_group import CommandGroup
from neuron_service.cli.command_table import COMMANDS, NAMES_ELSEWHERE, SECTIONS
from neuron_service.cli.options import COMPLETION_VARIABLE
from neuron_service.cli.streams import open_missing_streams, take_any_text
from neuron_service.cli.terminal import INTERRUPTED, complain, drop_the_rest
from neuron_service.client.problem import DaemonProblem

__all__ = ("ROOT", "run", "usage_sentence")

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Why stdout cannot be written: a full disk, or a terminal that is gone."""


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's
    if value and not context.resilient_parsing:
        from neuron_service.cli.commands.version import print_version

        print_version()
        context.exit()


ROOT: Final = CommandGroup(
    "neuron",
    COMMANDS,
    sections=SECTIONS,
    elsewhere=NAMES_ELSEWHERE,
    default="serve",
    help="Serve local language models on this host, and talk to them.",
    epilog="`neuron COMMAND --help` shows the options of a command. They may stand before or after the command.",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        )
    ],
)
"""All commands of `neuron`, for programs that need the tree: the reference, the man page, completion."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status. See `neuron_service.cli.main`."""
    open_missing_streams()
    take_any_text(sys.stdout)
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(ROOT, {}, "neuron", COMPLETION_VARIABLE, instruction))
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    """Run a command that may be interrupted, and whose reader may leave before its end. Returns the exit status."""
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
    except click.ClickException as error:
        complain(usage_sentence(error) if isinstance(error, click.UsageError) else error.format_message())
        return os.EX_USAGE if isinstance(error, click.UsageError) else error.exit_code
    except DaemonProblem as problem:
        complain(str(problem))
        return problem.exit_status
    except (KeyboardInterrupt, click.Abort):  # click's prompts turn the one into the other
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        drop_the_rest(sys.stdout)
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:  # an error of the command, and a bug
            raise
        drop_the_rest(sys.stdout)
        complain(f"the output cannot be written: {error.strerror}")
        return os.EX_IOERR
    return status


def _invoke(arguments: Sequence[str]) -> int:
    """Read the arguments and run the command. Returns the exit status."""
    try:
        with ROOT.make_context("neuron", [*arguments]) as context:
            status: int | None = ROOT.invoke(context)
    except click.exceptions.Exit as ended:  # --help and --version
        return ended.exit_code
    return status or 0


def usage_sentence(error: click.UsageError) -> str:
    """What is wrong with a command line, in one line, and where the right form is described."""
    path = "neuron" if error.ctx is None else error.ctx.command_path
    problem = " ".join(error.format_message().split()).removesuffix(".")
    if isinstance(error, click.NoSuchOption):
        problem = _unknown_option(error, path)
    if problem[1:2].islower():  # not the name of a variable
        problem = f"{problem[:1].lower()}{problem[1:]}"
    return f"{problem} (see `{path} --help`)"


def _unknown_option(error: click.NoSuchOption, path: str) -> str:
    owners = [f"`neuron {name}`" for name in ROOT.owners(error.option_name)]
    if not owners:
        near = f"; did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"there is no option {error.option_name}{near}"
    *first, last = owners
    return f"{error.option_name} is an option of {', '.join(first)}{' and ' if first else ''}{last}, not of `{path}`"
