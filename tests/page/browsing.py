"""Debian's Chromium, driven by Playwright. No browser is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.patience import PATIENCE_S

__all__ = ("CHROMIUM", "PATIENCE_MS", "chromium")

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
