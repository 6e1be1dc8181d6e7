"""`/`: the page for people, the parts of it that change, and the files that it asks for."""

from functools import partial
from typing import Any, Final

import anyio
from litestar import MediaType, Request, Response, get

from neuron_lib.wire.http_errors import UnknownPath
from neuron_service.exchange import exchange_of
from neuron_service.host import Host
from neuron_service.host_dependency import HostDependency
from neuron_service.openapi import Operation, described_by
from neuron_service.page.assets import ASSETS, asset
from neuron_service.page.snapshot import take_facts
from neuron_service.page.view import PageFacts, view_of

__all__ = ("show_asset", "show_page", "show_state")

_UNAUTHORIZED: Final = 401
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types neuron"
)
"""The page runs its own script and no other, talks to this host alone, and is shown in no other page. `trusted-types`
names the one policy of the script, for the HTML that this host makes.
"""
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_PAGE = Operation(method="get", path="/", summary="The page for people, as HTML", answers={200: None, 401: None})


@get(_PAGE.path, opt=described_by(_PAGE))
async def show_page(request: Request[Any, Any, Any], host: HostDependency) -> Response[bytes]:
    """The page. A caller who may not see the state of the host gets a field for a key, with the status 401."""
    _require_page(host)
    scopes = exchange_of(request.scope).scopes
    if not scopes:
        return _html(await anyio.to_thread.run_sync(_locked), status=_UNAUTHORIZED)
    return _html(await anyio.to_thread.run_sync(partial(_render, take_facts(host, scopes=scopes), whole=True)))


_STATE = Operation(
    method="get", path="/page/state", summary="The parts of the page that change, as HTML", answers={200: None}
)


@get(_STATE.path, opt=described_by(_STATE))
async def show_state(request: Request[Any, Any, Any], host: HostDependency) -> Response[bytes]:
    """The parts of the page that change."""
    _require_page(host)
    facts = take_facts(host, scopes=exchange_of(request.scope).scopes)
    return _html(await anyio.to_thread.run_sync(partial(_render, facts, whole=False)))


_ASSETS: Final = {f"/page/{name}": name for name in ASSETS}
_FILES: Final = [
    Operation(method="get", path=path, summary=f"A file of the page: {name}", answers={200: None})
    for path, name in _ASSETS.items()
]


@get([*_ASSETS], opt=described_by(*_FILES))
async def show_asset(request: Request[Any, Any, Any], host: HostDependency) -> Response[bytes]:
    """A file that the page asks for. It is the same on every host, so everybody may read it."""
    _require_page(host)
    name = _ASSETS[request.scope["path"]]
    headers = _HEADERS | {"cache-control": "no-cache"}
    return Response(await anyio.to_thread.run_sync(asset, name), media_type=ASSETS[name], headers=headers)


def _require_page(host: Host) -> None:
    """Raises `UnknownPath` where the operator has turned the page off."""
    if not host.has_page:
        raise UnknownPath


def _html(body: bytes, *, status: int = 200) -> Response[bytes]:
    headers = _HEADERS | {"cache-control": "no-store"}
    if status == _UNAUTHORIZED:
        headers |= {"www-authenticate": 'Bearer realm="neuron"'}
    return Response(body, status_code=status, media_type=MediaType.HTML, headers=headers)


def _render(facts: PageFacts, *, whole: bool) -> bytes:
    from neuron_service.page.rendering import render_page, render_state  # noqa: PLC0415 - nobody may ever look

    view = view_of(facts)
    return render_page(view) if whole else render_state(view)


def _locked() -> bytes:
    from neuron_service.page.rendering import render_locked  # noqa: PLC0415 - nobody may ever look

    return render_locked()
