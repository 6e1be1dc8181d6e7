"""The message of a refusal by a real engine is sent to the client and is not logged."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.daemon import MODELS, Daemon, chat, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

CANARY = "CanaryWordsOfAClient"
TEMPLATE = """
{%- for message in messages %}
{%- if 'Canary' in message.content %}{{ raise_exception('bad: ' + message.content) }}{% endif %}
{{- message.content }}
{%- endfor %}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("log")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    config = f"""
default_models = [{{ model_id = "test/one", harness = "llamacpp" }}]
{MODELS.replace('id = "test/one"', f'id = "test/one"{chr(10)}chat_template = "{template}"')}
"""
    with running_daemon(folder, config) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({"messages": [{"role": "user", "content": f"{CANARY} " * 50_000}]}, True),
        ({"regex": f"({CANARY}"}, True),
        ({"grammar": f"start: {CANARY} "}, False),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": CANARY}}}}, True),
        ({"messages": [{"role": CANARY, "content": "hi"}]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": CANARY}}]}]}, False),
        ({"response_format": {"type": CANARY}}, False),
        ({"stop": {CANARY: CANARY}}, False),
        ({"logit_bias": {CANARY: 1}}, False),
        ({"tools": [{"type": "function", CANARY: CANARY}]}, False),
        ({"tool_choice": CANARY}, False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_quotes_little_to_the_client_and_nothing_to_the_log(
    daemon: Daemon, changes: dict[str, Any], *, quoted: bool, stream: bool
) -> None:
    before = len(daemon.log)
    reply = daemon.client.post("/v1/chat/completions", json=chat("test/one", stream=stream) | changes)
    assert 400 <= reply.status_code < 500, reply.text
    assert len(reply.content) < 3000
    assert CANARY in reply.text or not quoted
    daemon.client.get("/nothing")  # its line comes after those of the refusal
    log = daemon.log[before:]
    assert CANARY not in log
    assert len(log) < 3000
