"""The format of server-sent events (`text/event-stream`), and the last event of some streams. Pure."""

from typing import Final

from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = ("DONE", "KEEP_ALIVE", "server_sent_event")

KEEP_ALIVE: Final = b":\n\n"
"""A comment. Clients ignore it. A stream sends it when it would otherwise be silent for too long."""

DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream of OpenAI's older APIs, if the stream ended well."""


def server_sent_event(json_text: bytes, *, name: str | None = None, id_: str | None = None) -> bytes:
    """One event whose data is `json_text`, which must be JSON in UTF-8. `name` is its `event:` line and `id_` its `id:`
    line, if it has them. Neither may have line breaks.

    Lines end with LF alone. A gateway splits a stream at two LF in a row and would find no event in a stream with CRLF
    (`docs/reference/wire-contract.md#rules-for-every-answer`).
    """
    data = b"data: " + escape_line_breaks(json_text) + b"\n\n"
    named = data if name is None else b"event: " + name.encode() + b"\n" + data
    return named if id_ is None else b"id: " + id_.encode() + b"\n" + named
