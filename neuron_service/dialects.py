"""The table of the HTTP APIs through which clients ask models.

To add an API, write its modules in `neuron_lib.wire` as `neuron_lib.wire.dialect` describes, and add a row here.
"""

from typing import Final

from neuron_lib.errors import NeuronError
from neuron_lib.wire.anthropic_errors import anthropic_error
from neuron_lib.wire.dialect import Decode, Dialect
from neuron_lib.wire.http_errors import ErrorAnswer
from neuron_lib.wire.openai_errors import openai_error
from neuron_lib.wire.openai_responses_errors import responses_error

__all__ = ("DIALECTS", "render")

# Each function imports the modules that read and write the bodies of one API. To make their decoders takes 10 ms of
# processor time (measured). This module is imported before the first probe can be answered, so it does not import them.


def _openai_chat() -> Decode:
    from neuron_lib.wire.openai_chat import decode  # noqa: PLC0415 - see above

    return decode


def _openai_responses() -> Decode:
    from neuron_lib.wire.openai_responses import decode  # noqa: PLC0415 - see above

    return decode


def _anthropic_messages() -> Decode:
    from neuron_lib.wire.anthropic_messages import decode  # noqa: PLC0415 - see above

    return decode


def _anthropic_tokens() -> Decode:
    from neuron_lib.wire.anthropic_tokens import decode  # noqa: PLC0415 - see above

    return decode


DIALECTS: Final[tuple[Dialect, ...]] = (
    Dialect(path="/v1/chat/completions", error=openai_error, load=_openai_chat),
    Dialect(path="/v1/responses", error=responses_error, load=_openai_responses),
    Dialect(path="/v1/messages", error=anthropic_error, load=_anthropic_messages),
    Dialect(path="/v1/messages/count_tokens", error=anthropic_error, load=_anthropic_tokens),
)


def render(error: NeuronError, path: str) -> ErrorAnswer:
    """`error` as the answer to a request for `path`.

    The answer has the shape of a dialect if `path` is one of the dialect's paths or lies below one. The longest of
    these paths decides. If there is none, the answer has OpenAI's shape.
    """
    above = [
        (own, dialect) for dialect in DIALECTS for own in dialect.paths if path == own or path.startswith(f"{own}/")
    ]
    if not above:
        return openai_error(error)
    _, dialect = max(above, key=lambda pair: len(pair[0]))
    return dialect.error(error)
