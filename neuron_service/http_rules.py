"""What holds for every path alike, before any body is read: who may ask, how a body is encoded, how a path is spelled.

HEAD is GET without the body, OPTIONS is not answered.
"""

from collections.abc import Iterable
from typing import Any, Final

from neuron_lib.shown import clip
from neuron_lib.wire.bodies import UnsupportedMediaType
from neuron_service.access import AccessRules
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.refusals import UnknownMethod, UnknownPath, allowed_methods, refuse

__all__ = ("HttpRules",)

_NO_CONTENT: Final = 204


class HttpRules:
    """An ASGI application around another one, whose routes name GET and POST only. There is nothing but HTTP."""

    def __init__(self, routes: ASGIApp, *, access: AccessRules | None = None) -> None:
        """Without `access` any host and any origin may ask."""
        self._routes = routes
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        method = scope["method"]
        if refused := self._access and self._access.refusal(method, scope["http_version"], scope["headers"]):
            await refuse(refused, scope, send, status=refused.status)
        elif b"//" in raw_path or (raw_path.endswith(b"/") and raw_path != b"/"):
            # Litestar would overlook the surplus slash.
            await refuse(UnknownPath("there is nothing at this path"), scope, send, status=404)
        elif method == "HEAD":
            await self._answer_head(scope, receive, send)
        elif method == "OPTIONS":
            await self._answer_options(scope, receive, send)
        elif method == "POST" and (coding := _body_coding(scope["headers"])):
            error = UnsupportedMediaType(f"the body must not be compressed; its content-encoding is {coding!r}")
            await refuse(error, scope, send, status=415)
        else:
            await self._routes(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_head(message: Any) -> None:
            nonlocal is_answered
            if is_answered:
                return
            if message["type"] == "http.response.body":
                # A stream would go on; now it hears that its client has gone.
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                is_answered = True
            await send(message)

        get: Any = dict(scope) | {"method": "GET"}
        await self._routes(get, receive, send_head)

    async def _answer_options(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Litestar answers by itself, with a 204, which the contract does not know; an unknown path stays unknown."""
        allow = ""

        async def send_unless_granted(message: Any) -> None:
            nonlocal allow
            if message["type"] == "http.response.start" and message["status"] == _NO_CONTENT:
                allow = allowed_methods(dict(message["headers"])[b"allow"].decode())
            elif not allow:
                await send(message)

        await self._routes(scope, receive, send_unless_granted)
        if allow:
            await refuse(UnknownMethod("this path does not answer OPTIONS"), scope, send, status=405, allow=allow)


def _body_coding(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What a body must be decoded by before it is text; "" for nothing."""
    codings = b",".join(value for name, value in headers if name == b"content-encoding").decode("latin-1").lower()
    return clip(codings) if {coding.strip() for coding in codings.split(",")} - {"", "identity"} else ""
