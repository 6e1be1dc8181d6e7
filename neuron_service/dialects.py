"""The table of the HTTP APIs through which clients ask models.

To add an API, write its modules in `neuron_lib.wire` as `neuron_lib.wire.dialect` describes, and add a row here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from neuron_lib.errors import NeuronError
from neuron_lib.wire.anthropic_errors import anthropic_error
from neuron_lib.wire.dialect import Decode, Dialect, Shapes
from neuron_lib.wire.http_errors import ErrorAnswer
from neuron_lib.wire.openai_errors import ErrorEnvelope, openai_error
from neuron_lib.wire.openai_responses_errors import responses_error
from neuron_service.asgi import REQUEST_ID

__all__ = ("DIALECTS", "ERROR_SHAPE", "ID_HEADERS", "IMAGE_PATHS", "id_headers", "render")

ERROR_SHAPE: Final = ErrorEnvelope
"""The type of the body of an error on a path of no dialect, or of one that says nothing else."""


def _api(
    path: str,
    module: str,
    *,
    error: Callable[[NeuronError], ErrorAnswer] = openai_error,
    decode: str = "decode",
    shapes: str = "SHAPES",
    id_header: str | None = None,
) -> Dialect:
    """The API whose bodies are read and written by a module of `neuron_lib.wire`.

    `decode` and `shapes` are names in that module. The module is imported when one of them is first wanted. To make the
    decoders of a module takes 10 ms of processor time (measured), and this table is imported before the first probe can
    be answered.
    """

    def load() -> Decode:
        found: Decode = getattr(import_module(f"neuron_lib.wire.{module}"), decode)
        return found

    def describe() -> Shapes:
        found: Shapes = getattr(import_module(f"neuron_lib.wire.{module}"), shapes)
        return found

    return Dialect(path=path, error=error, load=load, shapes=describe, id_header=id_header)


DIALECTS: Final[tuple[Dialect, ...]] = (
    _api("/v1/chat/completions", "openai_chat"),
    _api("/v1/completions", "openai_completions"),
    _api("/completion", "llamacpp_completion"),
    _api("/v1/embeddings", "openai_embeddings"),
    _api("/v1/rerank", "rerank"),
    _api("/v1/reranking", "rerank"),
    _api("/v2/rerank", "rerank"),  # Cohere's path
    _api("/tokenize", "tokens", decode="decode_tokenize", shapes="TOKENIZE_SHAPES"),
    _api("/detokenize", "tokens", decode="decode_detokenize", shapes="DETOKENIZE_SHAPES"),
    _api("/apply-template", "tokens", decode="decode_apply_template", shapes="APPLY_TEMPLATE_SHAPES"),
    _api("/v1/responses", "openai_responses", error=responses_error),
    _api("/v1/responses/input_tokens", "openai_responses_tokens", error=responses_error),
    _api("/v1/messages", "anthropic_messages", error=anthropic_error, id_header="request-id"),
    _api("/v1/messages/count_tokens", "anthropic_tokens", error=anthropic_error, id_header="request-id"),
)
IMAGE_PATHS: Final = ("/v1/images/generations", "/images/generations")
"""The paths of OpenAI's API for images. They ask a model, and no model here answers."""
ID_HEADERS: Final = {path: each.id_header.encode() for each in DIALECTS if each.id_header for path in each.paths}
"""By path, the header in which clients of the path look for the request's id beside `x-request-id`."""


def id_headers(request_id: str, path: str) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of every answer to a request for `path` that have the id of the request."""
    value = request_id.encode()
    own = ID_HEADERS.get(path)
    return ((REQUEST_ID, value),) if own is None else ((REQUEST_ID, value), (own, value))


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
