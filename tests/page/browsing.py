"""Debian's Chromium, driven by Playwright, and a host for it. No browser is downloaded."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from neuron_lib.testing import ScriptedModel
from neuron_service.asgi import ASGIApp
from tests.fakes.listening_host import ListeningHost, listening_host
from tests.patience import PATIENCE_S

__all__ = ("CHROMIUM", "PATIENCE_MS", "chromium", "page_host")

CHROMIUM = shutil.which("chromium")
"""Chromium's program; None where it is not installed."""
PATIENCE_MS = PATIENCE_S * 1000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without windows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_host(
    scripts: Mapping[str, ScriptedModel] | None = None,
    *,
    resident: Sequence[str] = (),
    port: int = 0,
    before: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[ListeningHost]:
    """A `listening_host` that drains at the end.

    Chromium notices that the page of a stream is closed when the stream brings something. A host that drains tells that
    to its streams of events, so its end does not wait for them.
    """
    with listening_host(scripts, resident=resident, port=port, before=before) as host:
        try:
            yield host
        finally:
            host.call(host.scripted.real.start_draining)
