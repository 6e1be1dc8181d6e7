"""The error of a command line that names a model which is not there.

The code that looks for models is elsewhere, because importing it takes longer than all imports that a probe needs.
"""

import os

from neuron_lib.errors import ConfigError

__all__ = ("NoSuchModel",)


class NoSuchModel(ConfigError):
    """What stands on the command line means no model. `exit_status` is one of sysexits.h."""

    def __init__(self, message: str, *, exit_status: int = os.EX_USAGE) -> None:
        super().__init__(message)
        self.exit_status = exit_status
