"""What a command says about an error of the library, and the status that the command then ends with."""

import os
from typing import Final

from neuron_lib.errors import ConfigError, NeuronError, SourceUnavailable, cause_chain
from neuron_service.cli.no_such_model import NoSuchModel
from neuron_service.cli.terminal import complain

__all__ = ("report_failure", "sentence_and_status")

_LATER: Final = (
    "try again later; if a hub was asked, see whether this machine reaches it: models that are here need none"
)


def report_failure(error: NeuronError) -> int:
    """Print the error. Returns the exit status."""
    sentence, status = sentence_and_status(error)
    complain(sentence)
    return status


def sentence_and_status(error: NeuronError) -> tuple[str, int]:
    """The error for a person, and the exit status: one of sysexits.h, or 1 for a request that will be refused again."""
    match error:
        case NoSuchModel():
            return str(error), error.exit_status
        case ConfigError():
            return str(error), os.EX_CONFIG
        case SourceUnavailable():
            return f"{cause_chain(error)}; {_LATER}", os.EX_TEMPFAIL
        case _:
            return cause_chain(error), 1
