"""The page in Chromium, over a host that follows a script."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from neuron_lib import Registry
from neuron_lib.errors import EngineDead
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Finished, FinishReason, LoadProgress, LoadStage, ReasoningDelta, ToolCall, Usage
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from tests.fakes.driven_harness import DrivenHarness
from tests.fakes.listening_host import ListeningHost
from tests.fakes.scripted_host import spec
from tests.page.browsing import page_host
from tests.page.conftest import OpenPage

A, B = "org/a", "org/b:Q4_K_M"
SECRET = "neuron-laptop"  # noqa: S105 - of a key in a test
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PHONE = {"width": 360, "height": 740}


def say(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def card(page: Any, model_id: str) -> Any:
    return page.locator(f'.card[data-key="{model_id}"]')


def begin_load(host: ListeningHost, model_id: str) -> DrivenHarness:
    """Begin a load that does what the harness is told."""
    driven = DrivenHarness()
    registry = host.scripted.registry
    host.call(registry.register, driven)
    host.call(_begin, registry, driven, model_id)
    return driven


async def _begin(registry: Registry, driven: DrivenHarness, model_id: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.load, spec(model_id, harness=driven.name))
        while model_id not in driven.reports:
            await checkpoint()
        tasks.cancel_scope.cancel()  # the load belongs to the registry and goes on


# ---------------------------------------------------------------------------------------------------------- the state


def test_a_load_is_seen_to_go_on_and_to_end_while_the_page_is_open(open_page: OpenPage) -> None:
    with page_host() as host, open_page(host.port) as page:
        page.get_by_text("No model is loaded.").wait_for()
        driven = begin_load(host, A)
        for fraction in (0.1, 0.6):
            host.call(driven.reports[A], LoadProgress(stage=LoadStage.LOADING, fraction=fraction))
            card(page, A).get_by_text(f"loading {fraction:.0%}".replace("%", " %")).wait_for()
            assert card(page, A).get_by_role("progressbar").get_attribute("value") == str(fraction)
        host.call(driven.finish)
        card(page, A).get_by_text("serving", exact=True).wait_for()
        page.get_by_text("1 model serving").wait_for()


def test_what_happens_is_seen_at_once_and_not_at_the_next_look(open_page: OpenPage) -> None:
    with page_host() as host, open_page(host.port) as page:
        page.get_by_text("No model is loaded.").wait_for()
        with page.expect_response("**/events"):
            page.clock.install()
            page.reload()
        page.clock.pause_at(datetime.now(tz=UTC) + timedelta(hours=1))  # no pause of the page ends from now on
        host.call(host.scripted.registry.load, spec(A))
        card(page, A).wait_for()
        host.call(host.scripted.registry.unload, A)
        page.get_by_text("No model is loaded.").wait_for()


def test_a_load_is_asked_for_and_its_failure_is_said_where_it_was_asked(open_page: OpenPage) -> None:
    with (
        page_host({B: ScriptedModel(load_error=EngineDead(B, "no such file"))}) as host,
        open_page(host.port) as page,
    ):
        page.get_by_label("Id of a model").fill(A)
        page.keyboard.press("Enter")
        card(page, A).get_by_text("serving", exact=True).wait_for()
        page.get_by_label("Id of a model").fill(B)
        page.keyboard.press("Enter")
        page.get_by_role("alert").filter(has_text="no such file").wait_for()


def test_a_model_is_unloaded_with_the_keyboard_once_that_is_confirmed(open_page: OpenPage) -> None:
    with page_host(resident=[A]) as host, open_page(host.port) as page:
        unload = page.get_by_role("button", name=f"Unload {A}")
        unload.focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=f"Unload {A}?").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")
        assert host.call(host.scripted.registry.list_models)
        unload.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("No model is loaded.").wait_for()


def test_focus_and_what_was_typed_outlive_a_refresh(open_page: OpenPage) -> None:
    with page_host(resident=[A]) as host, open_page(host.port) as page:
        field = page.get_by_label("Id of a model")
        field.fill("org/half")
        host.call(host.scripted.registry.unload, A)
        page.get_by_text("No model is loaded.").wait_for()
        assert (field.input_value(), page.evaluate("document.activeElement.id")) == ("org/half", "load-id")


def test_a_host_that_is_lost_is_said_to_be_and_comes_back(open_page: OpenPage) -> None:
    with ExitStack() as life:
        host = life.enter_context(page_host(resident=[A]))
        with open_page(host.port) as page:
            card(page, A).wait_for()
            life.close()
            page.get_by_role("alert").filter(has_text="The service does not answer").wait_for()
            life.enter_context(page_host(resident=[B], port=host.port))
            card(page, B).wait_for()
            page.locator("#lost").wait_for(state="hidden")


def test_a_refusal_of_the_host_is_said_in_its_own_words(open_page: OpenPage) -> None:
    with page_host(resident=[A]) as host, open_page(host.port) as page:
        card(page, A).wait_for()
        host.scripted.real.has_page = False
        page.get_by_role("alert").filter(has_text="There is nothing at this path.").wait_for()


def test_the_focus_and_a_screen_reader_are_told_where_a_model_was_that_went(open_page: OpenPage) -> None:
    with page_host(resident=[A, B]) as host, open_page(host.port) as page:
        page.get_by_role("button", name=f"Unload {A}").focus()
        host.call(host.scripted.registry.unload, A)
        card(page, A).wait_for(state="detached")
        page.get_by_text(f"{A} is gone.").wait_for(state="attached")
        assert page.evaluate("document.activeElement.id") == "models-title"


def test_the_model_that_was_chosen_stays_chosen_when_others_come_and_go(open_page: OpenPage) -> None:
    with page_host(resident=["org/m", "org/n"]) as host, open_page(host.port) as page:
        chosen = page.get_by_label("Model", exact=True)
        chosen.select_option("org/n")
        host.call(host.scripted.registry.load, spec(A))
        host.call(host.scripted.registry.unload, "org/m")
        card(page, A).wait_for()
        card(page, "org/m").wait_for(state="detached")
        assert chosen.input_value() == "org/n"


def test_without_its_script_the_page_has_the_numbers_and_no_controls(open_page: OpenPage) -> None:
    with page_host(resident=[A]) as host, open_page(host.port, java_script_enabled=False) as page:
        card(page, A).get_by_text("0 of 8").wait_for()
        page.get_by_text("The chat needs JavaScript.").wait_for()
        assert page.get_by_role("button").count() == page.get_by_role("textbox").count() == 0
        assert page.get_by_text("Load a model").filter(visible=True).count() == 0
        assert page.locator("#chat").bounding_box()["height"] < page.locator("#models").bounding_box()["height"]


def test_the_page_works_below_a_path_of_a_proxy(open_page: OpenPage) -> None:
    def behind_proxy(app: ASGIApp) -> ASGIApp:
        async def strip(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"].removeprefix("/node")
            await app(dict(scope) | {"path": path, "raw_path": path.encode()}, receive, send)

        return strip

    with page_host(resident=[A], before=behind_proxy) as host, open_page(host.port, path="/node/") as page:
        say(page, "hi")
        page.get_by_text("Hello, world!", exact=True).wait_for()
        host.call(host.scripted.registry.unload, A)
        page.get_by_text("No model is loaded.").wait_for()


# ----------------------------------------------------------------------------------------------------------- the chat


def test_a_reply_is_shown_with_its_reasoning_folded_and_goes_on_from_what_was_said(open_page: OpenPage) -> None:
    usage = Usage(prompt_tokens=7, completion_tokens=5, decode_ms=500)
    end = Finished(reasons=(FinishReason.STOP,), usage=usage)
    script = ScriptedModel(reply=(ReasoningDelta(text="I think"), "It is **so**", ".\n\n- one\n- two", end))
    with page_host({A: script}, resident=[A]) as host, open_page(host.port) as page:
        say(page, "Why?")
        page.get_by_text("5 tokens · 10.0 tokens/s").wait_for()
        assert page.locator(".assistant strong").inner_text() == "so"
        assert page.locator(".assistant .text li").all_inner_texts() == ["one", "two"]
        assert not page.get_by_text("I think").is_visible()
        page.get_by_text("Reasoning", exact=True).click()
        page.get_by_text("I think").wait_for()
        say(page, "And then?")
        page.get_by_text("5 tokens").nth(1).wait_for()
        asked: Any = host.scripted.harness.requests[-1]
        assert [(message["role"], message["content"]) for message in asked.messages] == [
            ("user", "Why?"),
            ("assistant", "It is **so**.\n\n- one\n- two"),
            ("user", "And then?"),
        ]


def test_what_a_model_writes_is_never_run(open_page: OpenPage) -> None:
    text = f"{HOSTILE}\n\n[link](javascript:alert(3)) `{HOSTILE}`\n\n```html\n{HOSTILE}\n```\n\n# {HOSTILE}"
    with page_host({A: ScriptedModel(reply=(text,))}, resident=[A]) as host, open_page(host.port) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        say(page, HOSTILE)
        page.locator(".assistant pre").wait_for()
        assert page.locator("#log :is(img, script, a)").count() == 0
        assert page.locator(".assistant pre").inner_text() == HOSTILE


def test_a_call_is_shown_and_what_is_written_next_is_its_result(open_page: OpenPage) -> None:
    call = ToolCall(index=0, id="call_1", name="weather", arguments='{"town":"Oslo"}')
    end = Finished(reasons=(FinishReason.TOOL_CALLS,), usage=Usage(prompt_tokens=1, completion_tokens=1))
    script = ScriptedModel(reply=(call, end))
    with page_host({A: script}, resident=[A]) as host, open_page(host.port) as page:
        say(page, "Is it cold?")
        page.get_by_text('"town": "Oslo"').wait_for()
        page.get_by_placeholder("Write the result of weather.").wait_for()
        script.reply = ("It is.",)
        say(page, "-5")
        page.get_by_text("It is.", exact=True).wait_for()
        asked: Any = host.scripted.harness.requests[-1]
        assert [message["role"] for message in asked.messages] == ["user", "assistant", "tool"]


def test_a_reply_is_shown_while_it_is_written_and_a_new_chat_knows_nothing_of_it(open_page: OpenPage) -> None:
    first, second = anyio.Event(), anyio.Event()
    script = ScriptedModel(reply=("One", " two"), may_speak=first)
    with page_host({A: script}, resident=[A]) as host, open_page(host.port) as page:
        say(page, "Count")
        card(page, A).get_by_text("1 of 8").wait_for()
        script.may_speak = second  # for the second word: the first one waits already
        host.set(first)
        page.get_by_text("One", exact=True).wait_for()
        page.get_by_role("button", name="New chat").click()
        page.get_by_text("One", exact=True).wait_for(state="detached")
        script.may_speak = None
        say(page, "Again")
        page.get_by_text("One two", exact=True).wait_for()
        asked: Any = host.scripted.harness.requests[-1]
        assert [message["content"] for message in asked.messages] == ["Again"]


def test_a_reply_is_stopped_and_frees_its_seat(open_page: OpenPage) -> None:
    with (
        page_host({A: ScriptedModel(may_speak=anyio.Event())}, resident=[A]) as host,
        open_page(host.port) as page,
    ):
        say(page, "Go on for ever")
        card(page, A).get_by_text("1 of 8").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        card(page, A).get_by_text("0 of 8").wait_for()


def test_a_model_that_crashes_in_a_reply_is_seen_to_recover_and_the_same_is_asked_again(open_page: OpenPage) -> None:
    script = ScriptedModel(reply=("It be", EngineDead(A, "SIGSEGV")))
    with page_host({A: script}, resident=[A]) as host, open_page(host.port) as page:
        say(page, "Go on")
        page.get_by_role("alert").filter(has_text="SIGSEGV").wait_for()
        host.call(host.scripted.harness.crash, A)
        card(page, A).get_by_text("recovering", exact=True).wait_for()
        page.get_by_role("button", name="Try again").click()
        page.get_by_role("alert").filter(has_text="is being replaced").wait_for()
        script.reply = ("It began.",)
        host.call(host.scripted.harness.recover, A)
        card(page, A).get_by_text("serving", exact=True).wait_for()
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("It began.", exact=True).wait_for()
        asked: Any = host.scripted.harness.requests[-1]
        assert [message["content"] for message in asked.messages] == ["Go on"]


def test_only_the_last_question_is_asked_again_and_one_reply_is_written_at_a_time(open_page: OpenPage) -> None:
    script = ScriptedModel(reply=(EngineDead(A, "SIGSEGV"),))
    with page_host({A: script}, resident=[A]) as host, open_page(host.port) as page:
        say(page, "One")
        page.get_by_role("button", name="Try again").wait_for()
        script.reply, script.may_speak = ("Yes",), anyio.Event()
        say(page, "Two")
        card(page, A).get_by_text("1 of 8").wait_for()
        assert page.get_by_role("button", name="Try again").count() == 0
        host.set(script.may_speak)
        page.get_by_text("Yes", exact=True).wait_for()


# --------------------------------------------------------------------------------------------------------- for whom


def test_what_cannot_be_a_key_is_not_sent(open_page: OpenPage) -> None:
    with page_host() as host:
        host.scripted.real.entrance.replace(EntranceRules(trusted=Networks.of((), own_uid=1)))
        with open_page(host.port) as page:
            page.get_by_label("Key").fill("“neuron”")
            page.keyboard.press("Enter")
            page.get_by_role("alert").filter(has_text="letters, digits and signs of ASCII").wait_for()
            assert page.evaluate("sessionStorage.length") == 0


def test_a_page_whose_key_is_revoked_follows_no_events_any_more(open_page: OpenPage) -> None:
    keys = KeyRing(parse_keys(line_of("laptop", ["metrics"], SECRET), place="keys"))
    known, unknown = (EntranceRules(trusted=Networks.of((), own_uid=1), keys=ring) for ring in (keys, KeyRing()))
    with page_host(resident=[A]) as host:
        host.scripted.real.entrance.replace(known)
        with open_page(host.port) as page:
            page.get_by_label("Key").fill(SECRET)
            with page.expect_response("**/events") as stream:
                page.keyboard.press("Enter")
            host.scripted.real.entrance.replace(unknown)
            page.get_by_label("Key").wait_for()
            stream.value.finished()  # by the page or by the host, whichever comes first


def test_a_caller_who_needs_a_key_types_it_once_and_may_do_what_the_key_may(open_page: OpenPage) -> None:
    with page_host(resident=[A]) as host:
        keys = KeyRing(parse_keys(line_of("laptop", ["inference"], SECRET), place="keys"))
        host.scripted.real.entrance.replace(EntranceRules(trusted=Networks.of((), own_uid=1), keys=keys))
        with open_page(host.port) as page:
            assert A not in page.content()
            asked: list[tuple[str, str | None]] = []
            page.on("request", lambda request: asked.append((request.url, request.headers.get("authorization"))))
            page.reload()
            page.get_by_label("Key").fill("wrong")
            page.keyboard.press("Enter")
            page.get_by_role("alert").filter(has_text="does not know").wait_for()
            assert [key for url, key in asked if url.endswith("/page/state")] == ["Bearer wrong"]
            page.get_by_label("Key").fill(SECRET)
            page.keyboard.press("Enter")
            card(page, A).wait_for()
            say(page, "hi")
            page.get_by_text("Hello, world!", exact=True).wait_for()
            page.get_by_text("A key with the scope metrics shows them.").wait_for()
            assert page.get_by_role("button", name="Unload").count() == page.get_by_label("Id of a model").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_of_the_page_has_a_fault_that_axe_finds(open_page: OpenPage, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: `make install`").Axe()
    faults: dict[str, list[str]] = {}

    def check(page: Any, state: str) -> None:
        found = axe.run(page).response["violations"]
        faults[state] = [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]

    reply = (
        ReasoningDelta(text="Hm"),
        "# Yes\n\n| a | b |\n|---|---|\n| 1 | [2](https://x.example) |\n\n```\ncode\n```\n> q",
    )
    script = ScriptedModel(reply=reply)
    with page_host({A: script}, resident=[A]) as host, open_page(host.port, color_scheme=scheme) as page:
        page.locator("html.scripted").wait_for()
        check(page, "idle")
        driven = begin_load(host, B)
        host.call(driven.reports[B], LoadProgress(stage=LoadStage.LOADING, fraction=0.3))
        card(page, B).wait_for()
        check(page, "loading")
        say(page, "hi")
        page.locator(".assistant blockquote").wait_for()
        page.get_by_text("Settings").click()
        check(page, "chatting")
        desktop = page.viewport_size
        page.set_viewport_size(PHONE)
        check(page, "chatting on a phone")
        page.set_viewport_size(desktop)
        script.reply = (EngineDead(A, "SIGSEGV"),)
        say(page, "hi")
        page.get_by_role("button", name="Try again").wait_for()
        host.call(host.scripted.harness.crash, A)
        card(page, A).get_by_text("recovering", exact=True).wait_for()
        check(page, "crashed")
        page.get_by_role("button", name=f"Unload {A}").click()
        check(page, "asked")
        host.scripted.real.entrance.replace(EntranceRules(trusted=Networks.of((), own_uid=1)))
        page.reload()
        check(page, "locked")
        assert [*filter(None, faults.values())] == []


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: OpenPage) -> None:
    long_id = f"org/{'a-very-long-name-' * 6}:Q4_K_M"
    wide = "x" * 300
    with (
        page_host({long_id: ScriptedModel(reply=(f"{wide}\n\n```\n{wide}\n```",))}, resident=[long_id]) as host,
        open_page(host.port, viewport=PHONE) as page,
    ):
        page.locator("html.scripted").wait_for()
        say(page, wide)
        page.locator(".assistant pre").wait_for()
        page.get_by_role("cell", name="finished").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        requests = page.get_by_role("group", name="The last requests")
        assert requests.evaluate("node => node.scrollWidth <= node.clientWidth")
