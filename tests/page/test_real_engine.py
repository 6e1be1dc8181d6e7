"""The page in Chromium, over the real program with a real model."""

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.page.conftest import OpenPage
from tests.system.daemon import MODELS, Daemon, eventually, free_port, running_daemon

pytestmark = [pytest.mark.model, pytest.mark.system]

ONE = """
[[default_models]]
model_id = "test/one"
"""


def kill_engine(daemon: Daemon) -> None:
    for pid in daemon.engine_pids():
        psutil.Process(pid).send_signal(signal.SIGKILL)


def text_of_reply(page: Any) -> str:
    text: str = page.locator(".assistant .text").last.inner_text()
    return text


def test_a_person_sees_a_model_load_chats_sees_it_crash_and_recover_and_unloads_it(
    open_page: OpenPage, tmp_path: Path
) -> None:
    port = free_port()
    with ExitStack() as life:
        daemon = life.enter_context(running_daemon(tmp_path, ONE + MODELS, port=port))
        page = life.enter_context(open_page(port))
        card = page.locator('.card[data-key="test/one"]')
        card.get_by_text("serving", exact=True).wait_for()

        page.get_by_label("Message", exact=True).fill("Tell me a long story.")
        page.keyboard.press("Enter")
        early = eventually(lambda: text_of_reply(page))
        eventually(lambda: len(text_of_reply(page)) > len(early))
        page.get_by_role("button", name="Stop").click()  # it is there, so the reply was shown while it was written
        page.get_by_text("Stopped.").wait_for()

        kill_engine(daemon)
        card.get_by_text("Last crash").wait_for()
        card.get_by_text("serving", exact=True).wait_for()
        page.get_by_text("Settings").click()
        page.get_by_label("Most tokens").fill("5")
        page.get_by_label("Message", exact=True).fill("Go on.")
        page.keyboard.press("Enter")
        page.get_by_text("cut at the most tokens").wait_for()

        page.get_by_role("button", name="Unload test/one").click()
        page.get_by_role("button", name="Unload it").click()
        page.get_by_text("No model is loaded.").wait_for()
        page.get_by_role("button", name="Load test/one").wait_for()

        daemon.insist(signal.SIGTERM)
        page.get_by_role("alert").filter(has_text="The service does not answer").wait_for()
        life.enter_context(running_daemon(tmp_path, ONE + MODELS, port=port))
        card.get_by_text("serving", exact=True).wait_for()
        assert page.locator("#lost").is_hidden()
