"""The commands: what may be typed after `neuron`. Light modules, one for each command.

A module declares the arguments and options of a command. It imports click at its top, and the code that does the work
in the function that runs it. So help, usage errors and completion import nothing else.

To add a command, write `neuron_service/cli/commands/NAME.py` and one line in `neuron_service.cli.command_table`. The
function of a command returns an exit status of sysexits.h (docs/reference/cli.md), or None for 0.
"""
