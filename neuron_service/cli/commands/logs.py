"""`neuron logs`."""

import os
from typing import Final

import click

from neuron_service.cli.options import LOG_LEVELS
from neuron_service.cli.terminal import complain

__all__ = ("journal_command", "logs")

_JOURNAL: Final = "journalctl"
_PRIORITIES: Final = {"debug": "debug", "info": "info", "warning": "warning", "error": "err"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 10**6), default=100, show_default=True, help="How many lines.")
@click.option("--level", type=click.Choice(LOG_LEVELS), help="The least severe lines.")
@click.option("--since", metavar="TIME", help="Only lines since then, such as '10 min ago' or '2026-11-30 12:00'.")
@click.option("--unit", default="neuron", show_default=True, metavar="NAME", help="The unit of systemd.")
@click.option("--user", "is_user", is_flag=True, help="The unit is one of this user.")
@click.option("--json", "as_json", is_flag=True, help="Print each record of the journal as one line of JSON.")
def logs(
    *, follow: bool, lines: int, level: str | None, since: str | None, unit: str, is_user: bool, as_json: bool
) -> int:
    """Show the log of a service that systemd runs.

    The lines come from the journal of this machine. A service that was started by hand logs to its terminal.
    """
    command = journal_command(
        follow=follow, lines=lines, level=level, since=since, unit=unit, is_user=is_user, as_json=as_json
    )
    try:
        os.execvp(_JOURNAL, command)  # noqa: S606 - journalctl is to have the terminal and the signals
    except FileNotFoundError:
        complain(f"there is no {_JOURNAL} here, so systemd keeps no log; `neuron serve` logs to its own stderr")
    except OSError as error:
        complain(f"{_JOURNAL} cannot be run: {error.strerror or error}")
    return os.EX_UNAVAILABLE


def journal_command(
    *,
    follow: bool,
    lines: int,
    level: str | None,
    since: str | None,
    unit: str,
    is_user: bool,
    as_json: bool = False,
) -> list[str]:
    """The arguments of journalctl for the same question."""
    command = [_JOURNAL, f"--lines={lines}", f"--{'user-' if is_user else ''}unit={unit}"]
    if follow:
        command.append("--follow")
    if level is not None:
        command.append(f"--priority={_PRIORITIES[level]}")
    if since is not None:
        command.append(f"--since={since}")
    if as_json:
        command.append("--output=json")
    return command
