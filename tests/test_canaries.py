"""What `tests.canaries` finds: the tests of it are the only ones in whose log canaries may be."""

import logging
import re
from collections.abc import Callable, Iterator

import pytest

from neuron_lib import Chat, Registry
from neuron_lib.logs import get_logger
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_service.access.entrance import Request
from tests.canaries import Canaries, written_in
from tests.fakes.registry_callers import spec

PROMPT, REPLY, KEY = "a prompt that nobody may read", "a reply that nobody may read", "nk-a-key-that-nobody-may-read"

logger = get_logger("neuron_lib.some_module")


@pytest.fixture
def canaries(_canaries: Canaries, caplog: pytest.LogCaptureFixture) -> Iterator[Canaries]:
    caplog.set_level(logging.DEBUG)
    yield _canaries
    _canaries.clear()


async def chat() -> None:
    async with Registry([ScriptedHarness({"o/a": ScriptedModel(reply=[REPLY])})]) as registry:
        await registry.load(spec("o/a"))
        async with registry.run(Chat(model_id="o/a", messages=({"role": "user", "content": PROMPT},))) as reply:
            async for _ in reply:
                pass


@pytest.mark.anyio
@pytest.mark.parametrize("text", [PROMPT, REPLY])
@pytest.mark.parametrize(
    "log",
    [
        lambda text: logger.info("it was: %s", text),
        lambda text: logger.warning("it was", extra={"text": text}),
        lambda text: logger.error("it was", exc_info=ValueError(text)),
    ],
    ids=["message", "field", "traceback"],
)
async def test_a_text_of_a_client_or_a_model_in_the_log_is_found(
    text: str, log: Callable[[str], None], canaries: Canaries
) -> None:
    await chat()
    assert not canaries.found()
    log(text)
    assert canaries.found()


@pytest.mark.anyio
async def test_at_debug_such_a_text_is_allowed(canaries: Canaries) -> None:
    await chat()
    logger.debug("it was: %s", PROMPT)
    assert not canaries.found()


@pytest.mark.parametrize("header", [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())])
def test_a_key_in_the_log_is_found(header: tuple[bytes, bytes], canaries: Canaries) -> None:
    Request.of({"method": "GET", "path": "/", "headers": [header], "client": None})
    logger.info("the key is %s", KEY)
    assert canaries.found()


def test_of_a_long_text_its_begin_and_its_middle_are_looked_for() -> None:
    canaries = Canaries()
    canaries.note("b" * 300 + "m" * 300 + "e" * 300)
    canaries.hear(f"x{'m' * 200}x")
    canaries.hear(f"{'b' * 200}… (900 characters)")
    assert len(canaries.found()) == 2


def test_in_the_log_of_a_daemon_lines_of_debug_and_what_follows_them_do_not_count() -> None:
    log = """2026-01-31T12:00:00.000+01:00 DEBUG   x: one
  a traceback of one
2026-01-31T12:00:00.000+01:00 INFO    x: two
{"time": "t", "level": "DEBUG", "message": "three"}
{"time": "t", "level": "ERROR", "message": "four"}
<7>x: five
<6>x: six
"""
    assert [re.findall(r"\w+", line)[-1] for line in written_in(log)] == ["two", "four", "six"]
