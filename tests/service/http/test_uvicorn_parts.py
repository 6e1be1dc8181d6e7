"""The undocumented parts of uvicorn that `neuron_service.http.uvicorn_parts` uses: their names and shapes.

If a test here fails, uvicorn was changed. Read `uvicorn/protocols/http/httptools_impl.py` and `uvicorn/server.py` of
the installed version, adapt `uvicorn_parts.py` and these tables, run the tests of this folder, and raise the upper
bound of uvicorn in pyproject.toml.
"""

import ast
import asyncio
import inspect
import re
import tomllib
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from httptools import HttpRequestParser
from packaging.requirements import Requirement
from packaging.version import Version
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from neuron_service.http import connection, uvicorn_parts
from tests.fakes.memory_connection import memory_connection

UVICORN = metadata.version("uvicorn")
CHANGED = f"uvicorn {UVICORN} was changed, see the top of {Path(__file__).name}: "

PROTOCOL_ATTRIBUTES: dict[str, type] = {
    "config": uvicorn.Config,  # of the server as well, which makes connections with it
    "connections": set,
    "cycle": RequestResponseCycle,
    "expect_100_continue": bool,
    "flow": FlowControl,
    "headers": list,
    "loop": asyncio.AbstractEventLoop,
    "parser": HttpRequestParser,
    "pipeline": deque,  # must stay empty: a second request never waits behind the first
    "server_state": ServerState,
    "transport": asyncio.Transport,
    "url": bytes,
}
PROTOCOL_METHODS: dict[str, list[str]] = {
    "__init__": ["self", "config", "server_state", "app_state", "_loop"],
    "_unset_keepalive_if_required": ["self"],
    "connection_lost": ["self", "exc"],
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "eof_received": ["self"],
    "on_body": ["self", "body"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_message_begin": ["self"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "on_url": ["self", "url"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
}
CYCLE_ATTRIBUTES: dict[str, type] = {
    "chunked_encoding": bool,
    "disconnected": bool,
    "expected_content_length": int,
    "flow": FlowControl,
    "keep_alive": bool,
    "message_event": asyncio.Event,
    "more_body": bool,
    "response_complete": bool,
    "response_started": bool,
    "scope": dict,
    "transport": asyncio.Transport,
    "waiting_for_100_continue": bool,
}
SERVER_METHODS: dict[str, list[str]] = {
    "capture_signals": ["self"],
    "serve": ["self", "sockets"],
    "startup": ["self", "sockets"],
}


@pytest.fixture(scope="module")
def used() -> Any:
    """A connection in the middle of its second answer."""
    with memory_connection() as client:
        client.send(b"GET /a HTTP/1.1\r\n\r\n")
        client.send(b"GET /stream HTTP/1.1\r\n\r\n")
        yield client.connection


@pytest.mark.parametrize(("name", "kind"), PROTOCOL_ATTRIBUTES.items())
def test_uvicorns_protocol_has_the_attributes_that_we_use(used: Any, name: str, kind: type) -> None:
    assert isinstance(getattr(used, name, None), kind), f"{CHANGED}HttpToolsProtocol.{name} is no {kind.__name__}"


@pytest.mark.parametrize(("name", "kind"), CYCLE_ATTRIBUTES.items())
def test_uvicorns_cycle_has_the_attributes_that_we_use(used: Any, name: str, kind: type) -> None:
    assert isinstance(getattr(used.cycle, name, None), kind), f"{CHANGED}RequestResponseCycle.{name}"


def test_uvicorns_flow_knows_whether_the_client_reads(used: Any) -> None:
    assert used.flow.write_paused is False, f"{CHANGED}FlowControl.write_paused"


@pytest.mark.parametrize(("name", "parameters"), PROTOCOL_METHODS.items())
def test_uvicorns_protocol_has_the_methods_that_we_use(name: str, parameters: list[str]) -> None:
    assert parameters_of(HttpToolsProtocol, name) == parameters, f"{CHANGED}HttpToolsProtocol.{name}"


@pytest.mark.parametrize(("name", "parameters"), SERVER_METHODS.items())
def test_uvicorns_server_has_the_methods_that_we_use(name: str, parameters: list[str]) -> None:
    assert parameters_of(uvicorn.Server, name) == parameters, f"{CHANGED}Server.{name}"


def test_uvicorns_server_closes_the_listeners_that_we_add_and_ends_all_connections() -> None:
    """It must use nothing else of either: see `Listen`."""
    source = inspect.getsource(uvicorn.Server)
    assert re.findall(r"for server in self\.servers:\s+(?:await )?server\.(\w+)\(\)", source) == [
        "close",
        "wait_closed",
    ]
    assert re.findall(r"in list\(self\.server_state\.connections\):\s+connection\.(\w+)\(\)", source) == ["shutdown"]


def test_uvicorns_protocol_has_no_callback_that_we_do_not_know() -> None:
    """A new `on_…` or asyncio callback would be called by the parser or the loop, past our bounds."""
    known = PROTOCOL_METHODS.keys()
    callbacks = {name for name in vars(HttpToolsProtocol) if name.startswith("on_") or name in dir(asyncio.Protocol)}
    assert {name for name in callbacks if not name.startswith("__")} <= known, CHANGED


def test_an_answer_is_sent_and_a_connection_is_ended_through_the_cycles_transport() -> None:
    """Where the cycle would close the connection, we decide; so it must use its own transport for nothing else."""
    tree = ast.parse(inspect.getsource(RequestResponseCycle))
    uses = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.transport"
    }
    assert uses == {"write", "close", "is_closing"}, f"{CHANGED}RequestResponseCycle.transport"


def test_these_tables_name_everything_of_uvicorn_that_is_used() -> None:
    ours = vars(uvicorn_parts.UvicornConnection).keys()
    uvicorns = attributes_of(HttpToolsProtocol) | attributes_of(RequestResponseCycle)
    used = names_after(uvicorn_parts, "self", "super()", "cycle", "self.cycle", "self._cycle") & uvicorns
    tables = PROTOCOL_ATTRIBUTES.keys() | PROTOCOL_METHODS.keys() | CYCLE_ATTRIBUTES.keys() | {"send"}
    assert used - (ours - vars(HttpToolsProtocol).keys()) <= tables


def test_only_one_file_uses_what_is_uvicorns_own() -> None:
    everybodys = {"loop", "transport"} | vars(asyncio.Protocol).keys() | vars(asyncio.BaseProtocol).keys()
    parsers = {name for name in PROTOCOL_METHODS if name.startswith("on_")}
    ours = names_after(connection, "self", "super()", "self.cycle")
    allowed = everybodys | parsers | {"shutdown"} | vars(uvicorn_parts.UvicornConnection).keys() - {"cycle"}
    assert ours & attributes_of(HttpToolsProtocol) <= allowed


def test_uvicorn_is_bounded_to_the_version_that_was_read() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    packages = map(Requirement, project["optional-dependencies"]["service"])
    (requirement,) = (package for package in packages if package.name == "uvicorn")
    installed = Version(UVICORN)
    assert requirement.specifier.contains(UVICORN)
    assert not requirement.specifier.contains(f"{installed.major}.{installed.minor + 1}.0"), "the bound is too wide"


def parameters_of(owner: type, name: str) -> list[str]:
    method = getattr(owner, name, None)
    return [] if method is None else list(inspect.signature(inspect.unwrap(method)).parameters)


def attributes_of(owner: type) -> set[str]:
    """The methods of a class of uvicorn's, and what its code sets on `self`."""
    tree = ast.parse(inspect.getsource(owner))
    stored = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return stored | {name for name in vars(owner) if not name.startswith("__")}


def names_after(module: Any, *subjects: str) -> set[str]:
    """The attributes that a module's code takes from one of `subjects`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in subjects
    }
