import json
from typing import Any

import msgspec
import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ToolChoice, UnreadArray
from neuron_lib.wire.tool_choice import Offer, ToolChoiceField, offer_tools

NAMES = ("f", "g", "h")
TOOLS = UnreadArray(json.dumps([{"type": "function", "function": {"name": name}} for name in NAMES]).encode())
NONE = UnreadArray(b"[]")


def read(choice: object) -> ToolChoiceField:
    read: ToolChoiceField = msgspec.json.decode(json.dumps(choice).encode(), type=ToolChoiceField)
    return read


def names(offer: Offer) -> list[str]:
    return [tool["function"]["name"] for tool in offer.tools]


def allowed(mode: str, *chosen: str) -> dict[str, Any]:
    return {"mode": mode, "tools": [{"type": "function", "function": {"name": name}} for name in chosen]}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required", parallel=False)),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice("required", "g")),
        ({"function": {"name": "g"}}, ToolChoice("required", "g")),
        ({"type": "function", "name": "g"}, ToolChoice("required", "g")),
        ({"type": "tool", "name": "g"}, ToolChoice("required", "g")),
    ],
)
def test_each_spelling_of_a_choice_means_what_its_api_says(choice: object, wanted: ToolChoice) -> None:
    assert offer_tools(TOOLS, read(choice)) == Offer(TOOLS, wanted)


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
@pytest.mark.parametrize("tools", [TOOLS, NONE, ()])
def test_the_choice_none_offers_no_tools(choice: object, tools: Any) -> None:
    assert offer_tools(tools, read(choice)) == Offer((), ToolChoice())


@pytest.mark.parametrize("choice", [None, "auto", {"type": "auto"}])
@pytest.mark.parametrize("tools", [NONE, ()])
def test_without_tools_the_model_may_call_what_there_is(choice: object, tools: Any) -> None:
    assert offer_tools(tools, None if choice is None else read(choice), parallel=False) == Offer((), ToolChoice())


@pytest.mark.parametrize(("parallel", "wanted"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parallel_calls_are_allowed_unless_the_request_forbids_them(
    choice: str,
    parallel: bool | None,  # noqa: FBT001 - a parameter
    wanted: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert offer_tools(TOOLS, choice, parallel=parallel).choice.parallel is wanted


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools", "allowed_tools": allowed("auto", "h", "f")},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"name": "h"}]},
    ],
)
def test_of_a_list_of_allowed_tools_no_others_are_offered(choice: object) -> None:
    offer = offer_tools(TOOLS, read(choice))
    assert (names(offer), offer.choice) == (["f", "h"], ToolChoice())


def test_one_of_the_allowed_tools_can_be_required() -> None:
    offer = offer_tools(TOOLS, read({"type": "allowed_tools", "allowed_tools": allowed("required", "g")}))
    assert (names(offer), offer.choice) == (["g"], ToolChoice("required"))


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("banana", "tool_choice"),
        ("", "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": "banana"}, "tool_choice.type"),
        ({"type": "web_search_preview"}, "tool_choice.type"),
        ({"type": "custom", "custom": {"name": "f"}}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "tool"}, "tool_choice.name"),
        ({"type": "function", "function": {"name": "other"}}, "tool_choice"),
        ({"type": "tool", "name": "F"}, "tool_choice"),
        ({"type": "allowed_tools", "allowed_tools": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools", "allowed_tools": allowed("none", "f")}, "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools", "allowed_tools": allowed("auto", "x")}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "tool_choice.tools[0]"),
        ({"type": "allowed_tools"}, "tool_choice.mode"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused_with_its_place(choice: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        offer_tools(TOOLS, read(choice))
    assert caught.value.param == param


@pytest.mark.parametrize("tools", [NONE, ()])
@pytest.mark.parametrize(
    "choice", ["required", "any", {"type": "any"}, {"type": "tool", "name": "f"}, {"function": {"name": "f"}}]
)
def test_a_call_cannot_be_required_where_there_are_no_tools(choice: object, tools: Any) -> None:
    with pytest.raises(InvalidRequest, match="there are no tools") as caught:
        offer_tools(tools, read(choice))
    assert caught.value.param == "tool_choice"


def test_what_the_client_wrote_is_not_in_the_log() -> None:
    with pytest.raises(InvalidRequest, match="secret") as caught:
        offer_tools(TOOLS, read({"type": "function", "function": {"name": "secret"}}))
    assert "secret" not in caught.value.log_message
