"""The command `neuron`. The only package that reads the process's arguments and environment.

program          from the arguments to the exit status
command_line     what may be typed
serve            `neuron serve`
models           `neuron pull`, `ls` and `rm`
configuration    the configuration that a command runs with
config_check     what a configuration says that can never work; directories has a part of that
running_service  what the service on this machine has loaded
progress_line    how far a download is
terminal         errors on stderr
"""

from neuron_service.cli.program import main

__all__ = ("main",)
