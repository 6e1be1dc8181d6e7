"""The table of the HTTP APIs through which clients ask models.

To add an API, write its modules in `neuron_lib.wire` as `neuron_lib.wire.dialect` describes, and add a row here.
"""

from typing import Final

from neuron_lib.errors import NeuronError
from neuron_lib.wire.anthropic_errors import anthropic_error
from neuron_lib.wire.dialect import Decode, Dialect, Shapes
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


def _openai_input_tokens() -> Decode:
    from neuron_lib.wire.openai_responses_tokens import decode  # noqa: PLC0415 - see above

    return decode


def _anthropic_messages() -> Decode:
    from neuron_lib.wire.anthropic_messages import decode  # noqa: PLC0415 - see above

    return decode


def _anthropic_tokens() -> Decode:
    from neuron_lib.wire.anthropic_tokens import decode  # noqa: PLC0415 - see above

    return decode


def _openai_completions() -> Decode:
    from neuron_lib.wire.openai_completions import decode  # noqa: PLC0415 - see above

    return decode


def _completion_shapes() -> Shapes:
    from neuron_lib.wire.openai_completions import shapes  # noqa: PLC0415 - see above

    return shapes()


def _tokenize() -> Decode:
    from neuron_lib.wire.tokens import decode_tokenize  # noqa: PLC0415 - see above

    return decode_tokenize


def _tokenize_shapes() -> Shapes:
    from neuron_lib.wire.tokens import tokenize_shapes  # noqa: PLC0415 - see above

    return tokenize_shapes()


def _detokenize() -> Decode:
    from neuron_lib.wire.tokens import decode_detokenize  # noqa: PLC0415 - see above

    return decode_detokenize


def _detokenize_shapes() -> Shapes:
    from neuron_lib.wire.tokens import detokenize_shapes  # noqa: PLC0415 - see above

    return detokenize_shapes()


def _apply_template() -> Decode:
    from neuron_lib.wire.tokens import decode_apply_template  # noqa: PLC0415 - see above

    return decode_apply_template


def _apply_template_shapes() -> Shapes:
    from neuron_lib.wire.tokens import apply_template_shapes  # noqa: PLC0415 - see above

    return apply_template_shapes()


DIALECTS: Final[tuple[Dialect, ...]] = (
    Dialect(path="/v1/chat/completions", error=openai_error, load=_openai_chat),
    Dialect(path="/v1/completions", error=openai_error, load=_openai_completions, shapes=_completion_shapes),
    Dialect(path="/tokenize", error=openai_error, load=_tokenize, shapes=_tokenize_shapes),
    Dialect(path="/detokenize", error=openai_error, load=_detokenize, shapes=_detokenize_shapes),
    Dialect(path="/apply-template", error=openai_error, load=_apply_template, shapes=_apply_template_shapes),
    Dialect(path="/v1/responses", error=responses_error, load=_openai_responses),
    Dialect(path="/v1/responses/input_tokens", error=responses_error, load=_openai_input_tokens),
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
