"""A browser for the tests of a file, and a page of its own for each test.

An event loop of Playwright runs in this thread as long as the browser, so no test of the same file may be async.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, TypeAlias

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: `make install`")

from tests.page.browsing import CHROMIUM, PATIENCE_MS, chromium  # noqa: E402 - needs what is looked for above

OpenPage: TypeAlias = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def browser(process: None) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: Debian's package `chromium`")
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any) -> OpenPage:
    """Opens the page of the host at a port for a block. What the browser finds wrong with it fails the test.

    The keyword arguments are those of a context of Playwright. An answer that the host refuses with is no such fault,
    and neither is one that it breaks off.
    """

    @contextmanager
    def open_at(port: int, *, path: str = "/", **options: Any) -> Iterator[Any]:
        faults: list[str] = []
        with closing(browser.new_context(**options)) as context:
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.goto(f"http://127.0.0.1:{port}{path}")
            yield page
        assert [fault for fault in faults if not fault.startswith("Failed to load resource")] == []

    return open_at
