"""The page over HTTP: complete without its script, closed to strangers, safe against hostile names."""

import re
from html.parser import HTMLParser

import pytest

from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from neuron_service.access.scopes import OPEN_PATHS
from neuron_service.app import create_app
from neuron_service.page.assets import ASSETS, asset
from tests.fakes.asgi_client import AsgiClient, Reply
from tests.fakes.scripted_host import ScriptedHost, scripted_host, spec

pytestmark = pytest.mark.anyio

A = "org/a"
STRANGER = "198.51.100.9"
SECRET = "neuron-laptop"  # noqa: S105 - of a key in a test
PATHS = ["/", "/page/state", *(f"/page/{name}" for name in ASSETS)]


class Seen(HTMLParser):
    """The tags of a document with their attributes, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


def client_with_keys(host: ScriptedHost, address: str = STRANGER) -> AsgiClient:
    keys = KeyRing(parse_keys(line_of("laptop", ["inference"], SECRET), place="keys"))
    host.real.entrance.replace(EntranceRules(trusted=Networks.of(("loopback",), own_uid=1), keys=keys))
    return AsgiClient(create_app(host.real), address=address)


async def test_the_page_has_the_numbers_of_the_host_without_its_script() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.get("/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = Seen(reply.body.decode()).text
    assert "1 model serving" in text
    assert A in text
    assert "0 of 8" in text
    assert "1024 tokens" in text


async def test_what_is_asked_for_again_has_the_same_parts_as_the_page() -> None:
    async with scripted_host(resident=[A]) as host:
        page, state = Seen((await host.client.get("/")).body.decode()), await host.client.get("/page/state")
    parts = Seen(state.body.decode()).ids()
    assert {"top", "models", "host", "model"} <= set(parts)
    assert set(parts) <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))


async def test_every_label_names_a_field_and_every_field_of_the_page_has_a_label() -> None:
    async with scripted_host() as host:
        seen = Seen((await host.client.get("/")).body.decode())
    labelled = {attributes["for"] for tag, attributes in seen.tags if tag == "label"}
    fields = {attributes["id"] for tag, attributes in seen.tags if tag in {"input", "select", "textarea"}}
    assert labelled == fields


@pytest.mark.parametrize("path", ["/", "/page/state"])
async def test_what_others_have_written_is_text_and_never_a_tag(path: str) -> None:
    hostile = "<img src=x onerror=alert(1)>\"' & "
    async with scripted_host(default_models=[spec(f"org/{hostile}")]) as host:
        host.tracker.fail_loading(f"org/{hostile}", hostile)
        body = (await host.client.get(path)).body.decode()
    assert hostile not in body
    assert hostile in Seen(body).text
    assert not [attributes for _, attributes in Seen(body).tags if "onerror" in attributes]


async def test_the_page_asks_for_nothing_but_its_own_files_by_relative_addresses() -> None:
    async with scripted_host() as host:
        seen = Seen((await host.client.get("/")).body.decode())
    asked = {
        attributes[name] or ""
        for tag, attributes in seen.tags
        for name in ("src", "href", "action")
        if name in attributes and tag != "a"
    }
    assert asked == {f"page/{name}" for name in ASSETS}
    for name in ASSETS:
        assert not re.search(rb"https?://(?!www\.w3\.org)", asset(name)), name


async def test_the_page_has_no_script_and_no_style_of_its_own_which_its_policy_would_forbid() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.get("/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for tag, attributes in Seen(reply.body.decode()).tags:
        assert tag != "style"
        assert tag != "script" or attributes["src"]
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("name", ASSETS)
async def test_a_file_of_the_page_is_sent_with_its_type_and_is_taken_for_nothing_else(name: str) -> None:
    async with scripted_host() as host:
        reply = await host.client.get(f"/page/{name}")
    assert (reply.status, reply.body) == (200, asset(name))
    assert reply.headers["content-type"].partition(";")[0] == ASSETS[name]
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_all_files_of_the_page_are_open_and_its_state_is_not() -> None:
    assert {f"/page/{name}" for name in ASSETS} == {path for path in OPEN_PATHS if path.startswith("/page/")}


async def test_a_stranger_gets_a_field_for_a_key_and_nothing_about_the_host() -> None:
    async with scripted_host(resident=[A]) as host:
        client = client_with_keys(host)
        page, state = await client.get("/"), await client.get("/page/state")
    assert (page.status, page.headers["www-authenticate"]) == (401, 'Bearer realm="neuron"')
    assert "key" in Seen(page.body.decode()).ids()
    assert (state.status, state.json()["error"]["code"]) == (401, "invalid_api_key")
    for told in (A, "testhost", "1.2.3"):
        assert told.encode() not in page.body + state.body


@pytest.mark.parametrize(("address", "headers"), [("127.0.0.1", {}), (STRANGER, {"authorization": f"Bearer {SECRET}"})])
async def test_who_may_read_the_state_of_the_host_gets_the_whole_page(address: str, headers: dict[str, str]) -> None:
    async with scripted_host(resident=[A]) as host:
        client = client_with_keys(host, address)
        replies = [await client.request("GET", path, headers=headers) for path in ("/", "/page/state")]
    for reply in replies:
        assert reply.status == 200
        assert A.encode() in reply.body


@pytest.mark.parametrize("path", PATHS)
async def test_a_host_whose_page_is_turned_off_has_nothing_there(path: str) -> None:
    async with scripted_host() as host:
        host.real.has_page = False
        reply = await host.client.get(path)
    assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")


async def test_the_page_is_answered_to_head_and_to_no_post() -> None:
    async with scripted_host() as host:
        head: Reply = await host.client.request("HEAD", "/")
        refused = await host.client.post("/")
    assert (head.status, head.body) == (200, b"")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_models_of_the_configuration_can_be_chosen_to_load() -> None:
    async with scripted_host(resident=[A], default_models=[spec("org/c")]) as host:
        host.real.configured = (A, "org/b", "org/c")
        host.tracker.fail_loading("org/c", "no")
        tags = Seen((await host.client.get("/")).body.decode()).tags
    acts = {(attributes["data-act"], attributes["data-model"]) for _, attributes in tags if "data-act" in attributes}
    assert acts == {("unload", A), ("load", "org/b"), ("load", "org/c")}
