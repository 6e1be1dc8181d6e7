"""The table of the HTTP APIs that models are asked through.

To add an API, write its modules in `neuron_lib.wire` as `neuron_lib.wire.dialect` describes, and add a row here.
"""

from typing import Final

from neuron_lib.errors import NeuronError
from neuron_lib.wire.dialect import Decode, Dialect
from neuron_lib.wire.http_errors import ErrorAnswer
from neuron_lib.wire.openai_errors import openai_error

__all__ = ("DIALECTS", "render")

# Each function imports what reads and writes the bodies of one API. Decoders take 10 ms of processor time to make
# (measured), and this module is imported before the first probe can be answered.


def _openai_chat() -> Decode:
    from neuron_lib.wire.openai_chat import decode  # noqa: PLC0415 - see above

    return decode


DIALECTS: Final[tuple[Dialect, ...]] = (Dialect(path="/v1/chat/completions", error=openai_error, load=_openai_chat),)


def render(error: NeuronError, path: str) -> ErrorAnswer:
    """The answer to a request for `path` that is refused or failed, in the shape of that path.

    It has the shape of a dialect if `path` is that of the dialect, or below it. All other paths have OpenAI's shape.
    """
    for dialect in DIALECTS:
        if path == dialect.path or path.startswith(f"{dialect.path}/"):
            return dialect.error(error)
    return openai_error(error)
