"""The rules for every path, checked before a body is read: who may ask for what, encodings of bodies, slashes.

HEAD is answered as GET without the body. OPTIONS is answered only if it is a preflight of a page that may ask.
"""

from collections.abc import Iterable
from typing import Any, Final

from neuron_lib.shown import clip
from neuron_lib.wire.bodies import UnsupportedMediaType
from neuron_lib.wire.http_errors import AccessRefused, OriginNotAllowed, UnknownMethod, UnknownPath
from neuron_service.access.entrance import Entrance, EntranceRules
from neuron_service.access.hosts import AccessRules
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.cors import CorsRules, Preflight
from neuron_service.exchange import exchange_of
from neuron_service.refusals import allowed_methods, refuse

__all__ = ("HttpRules",)

_NO_CONTENT: Final = 204


class HttpRules:
    """An ASGI application around `routes`, whose routes need GET and POST only. Every scope is of the type `http`."""

    def __init__(
        self,
        routes: ASGIApp,
        *,
        access: AccessRules | None = None,
        entrance: Entrance | None = None,
        cors_origins: Iterable[str] = (),
    ) -> None:
        """Without `access` any host and any origin may ask. Without `entrance` nobody needs a key, and everybody is
        believed who they are. Pages of `cors_origins` may read the answers.
        """
        self._routes = routes
        self._entrance = entrance or Entrance(EntranceRules())
        self.replace(access=access, cors_origins=cors_origins)

    def replace(self, *, access: AccessRules | None, cors_origins: Iterable[str]) -> None:
        """Judge the next requests by these. Requests that are being answered go on."""
        self._access = access
        self._cors = CorsRules.of(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        method = scope["method"]
        preflight = self._cors.preflight(method, scope["headers"])
        if self._cors.origins and preflight is None:
            send = _readable(self._cors, scope["headers"], send)
        if refused := self._access and self._access.refusal(method, scope["http_version"], scope["headers"]):
            await refuse(refused, scope, send)
        elif preflight is not None:
            await self._answer_preflight(preflight, scope, send)  # which never has a key
        elif refused := self._admit(scope):
            await refuse(refused, scope, send)
        elif "//" in path or (path.endswith("/") and path != "/"):
            # Litestar would ignore the additional slash, also one that is written as %2F. The entrance does not, so a
            # caller without the scope of the path would get the answer.
            await refuse(UnknownPath(), scope, send)
        elif method == "HEAD":
            await self._answer_head(scope, receive, send)
        elif method == "OPTIONS":
            await self._answer_options(scope, receive, send)
        elif method == "POST" and (coding := _body_coding(scope["headers"])):
            error = UnsupportedMediaType(f"the body must not be compressed; its content-encoding is {coding!r}")
            await refuse(error, scope, send)
        else:
            await self._routes(scope, receive, send)

    def _admit(self, scope: Scope) -> AccessRefused | None:
        """Note for whom the request counts, or return why it is refused."""
        verdict = self._entrance.admit(scope)
        if isinstance(verdict, AccessRefused):
            return verdict
        exchange = exchange_of(scope)
        exchange.principal = verdict.principal
        exchange.scopes = verdict.scopes
        return None

    async def _answer_preflight(self, preflight: Preflight, scope: Scope, send: Send) -> None:
        """Every path gives the same answer, so that a page can read the 404 of a path that is not there."""
        verdict = self._cors.judge(preflight)
        if isinstance(verdict, OriginNotAllowed):
            await refuse(verdict, scope, send)
            return
        await send({"type": "http.response.start", "status": _NO_CONTENT, "headers": verdict})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def send_head(message: Any) -> None:
            nonlocal is_answered
            if is_answered:
                return
            if message["type"] == "http.response.body":
                # The answer ends here. To a stream that goes on this looks as if its client had left.
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                is_answered = True
            await send(message)

        get: Any = dict(scope) | {"method": "GET", "extensions": {}}  # without `DIRECT_WRITE`
        await self._routes(get, receive, send_head)

    async def _answer_options(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Litestar answers OPTIONS with a 204, which becomes a 405. Other answers, such as a 404, stay as they are."""
        allow = ""

        async def send_unless_granted(message: Any) -> None:
            nonlocal allow
            if message["type"] == "http.response.start" and message["status"] == _NO_CONTENT:
                allow = allowed_methods(dict(message["headers"])[b"allow"].decode())
            elif not allow:
                await send(message)

        await self._routes(scope, receive, send_unless_granted)
        if allow:
            await refuse(UnknownMethod("OPTIONS", allow=allow), scope, send)


def _readable(cors: CorsRules, headers: Iterable[tuple[bytes, bytes]], send: Send) -> Send:
    """`send`, but with what a browser must be told. The body stays as it is, so `DIRECT_WRITE` may be used."""
    origin = dict(headers).get(b"origin")

    async def send_with_cors(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = tuple(message["headers"])
            message = message | {"headers": [*own, *cors.beside(origin, own)]}
        await send(message)

    return send_with_cors


def _body_coding(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The encodings of a compressed body, as text. "" if the body is not compressed."""
    codings = b",".join(value for name, value in headers if name == b"content-encoding").decode("latin-1").lower()
    return clip(codings) if {coding.strip() for coding in codings.split(",")} - {"", "identity"} else ""
