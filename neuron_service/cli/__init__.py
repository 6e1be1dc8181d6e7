"""The command `neuron`. The only package that reads the process's arguments and environment.

program          from the arguments to the exit status
command_table    which commands there are
command_group    imports a command when it is needed; options before a command are options of the command
commands         the declarations of the commands
options          options that several commands share
daemon           which daemon a command talks to
serve            `neuron serve`
chat             `neuron run` and `neuron chat`; talk has their parts
bench            `neuron bench`; bench_figures computes its numbers
config_file      `neuron config show`, `schema` and `init`; config_text makes their texts
named_models     the models that stand on a command line
models           `neuron pull`, `ls` and `rm`
keys             `neuron key`
doctor           `neuron doctor`: asks host_facts about this host, and findings what the facts mean
install_service  `neuron install-service`: writes the files that service_files decides about
configuration    the configuration that a command runs with; service_settings has what only the service needs
config_check     finds values in a configuration that can never work; directories has a part of that
running_service  which models the service on this machine has loaded
progress_line    the progress of a download
service_packages the Python packages that only `serve` needs
terminal         errors on stderr
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status (docs/reference/cli.md), one of sysexits.h where one fits."""
    try:
        from neuron_service.cli.program import run  # noqa: PLC0415 - Ctrl-C during the imports is no traceback
    except KeyboardInterrupt:
        sys.exit(130)
    run(arguments)
