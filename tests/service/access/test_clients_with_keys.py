"""The official clients of OpenAI and Anthropic, with keys of this service, from a place that is not trusted."""

from collections.abc import Iterator
from contextlib import contextmanager

import anthropic
import openai
import pytest

from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from tests.fakes.listening_host import ListeningHost, listening_host

pytestmark = pytest.mark.process

A = "org/a"
KEYS = f"{line_of('laptop', ['inference'], 'neuron-laptop')}\n{line_of('graphs', ['metrics'], 'neuron-graphs')}\n"


@contextmanager
def closed_host() -> Iterator[ListeningHost]:
    """A host on loopback that trusts no network."""
    with listening_host(resident=[A]) as host:
        keys = KeyRing(parse_keys(KEYS, place="keys"))
        host.scripted.real.entrance.replace(EntranceRules(trusted=Networks.of((), own_uid=1), keys=keys))
        yield host


def ask_openai(host: ListeningHost, key: str) -> str | None:
    with openai.OpenAI(api_key=key, base_url=f"http://127.0.0.1:{host.port}/v1", max_retries=0) as client:
        reply = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "hi"}])
        return reply.choices[0].message.content


def ask_anthropic(host: ListeningHost, key: str) -> str:
    with anthropic.Anthropic(api_key=key, base_url=f"http://127.0.0.1:{host.port}", max_retries=0) as client:
        reply = client.messages.create(model=A, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        (block,) = reply.content
        assert block.type == "text"
        return block.text


def test_each_client_sends_its_key_in_its_own_way_and_knows_the_refusals() -> None:
    with closed_host() as host:
        assert ask_openai(host, "neuron-laptop")
        assert ask_anthropic(host, "neuron-laptop")
        with pytest.raises(openai.AuthenticationError, match="does not know the API key") as unknown:
            ask_openai(host, "sk-other")
        with pytest.raises(anthropic.AuthenticationError, match="does not know the API key"):
            ask_anthropic(host, "sk-other")
        with pytest.raises(openai.PermissionDeniedError, match="lacks the scope 'inference'") as lacking:
            ask_openai(host, "neuron-graphs")
        with pytest.raises(anthropic.PermissionDeniedError, match="lacks the scope 'inference'"):
            ask_anthropic(host, "neuron-graphs")
    assert (unknown.value.code, lacking.value.code) == ("invalid_api_key", "insufficient_scope")
