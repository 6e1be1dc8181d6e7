"""The program: reads the command line, runs one command, ends with its status.

The modules of a command are imported when the command runs. Help, usage errors and `neuron ls` import no web server.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from neuron_service.cli.command_line import UsageError, parse_command_line
from neuron_service.cli.terminal import complain

__all__ = ("main",)

_USAGE_ERROR: Final = 2
_INTERRUPTED: Final = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status (docs/reference/cli.md), one of sysexits.h where one fits."""
    _open_missing_streams()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        complain(str(error))
        sys.exit(_USAGE_ERROR)


def _run(arguments: Sequence[str]) -> NoReturn:
    options = parse_command_line(arguments, print_version=_print_version)
    from neuron_service.systemd import Notifier, take_environment

    manager = take_environment(os.environ, pid=os.getpid())
    if options.command == "serve":
        from neuron_service.cli.serve import run_service

        with Notifier(manager.notify_address) as notifier:
            run_service(options, notifier, manager)
    if options.command == "doctor":
        from neuron_service.cli.doctor import run_doctor

        sys.exit(_run_for_somebody(lambda: run_doctor(options)))
    if options.command == "key":
        from neuron_service.cli.keys import run_key_command

        sys.exit(_run_for_somebody(lambda: run_key_command(options)))
    if options.command == "estimate":
        from neuron_service.cli.estimate import run_estimate_command

        sys.exit(_run_for_somebody(lambda: run_estimate_command(options)))
    from neuron_service.cli.models import run_model_command

    sys.exit(_run_for_somebody(lambda: run_model_command(options)))


def _open_missing_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Otherwise the next file that is opened would get the number of a standard stream. A child process that is given
    streams of its own would then lose that file.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, `fd`


def _print_version() -> None:
    from neuron_service.version import find_version

    version = find_version(os.environ)
    print(f"neuron {version.package_version} ({version.git_sha})")


def _run_for_somebody(command: Callable[[], int]) -> int:
    """Run a command that may be interrupted, and whose reader may leave before its end. Returns the exit status."""
    try:
        status = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # At its end the interpreter writes the rest of the text. This must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
