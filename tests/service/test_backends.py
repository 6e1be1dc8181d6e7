"""Which backends a service offers when other packages bring some."""

import logging
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.harness import Harness
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.process.backend import PROCESS
from neuron_lib.remote.backend import REMOTE
from neuron_lib.testing import ScriptedHarness
from neuron_service.backends import BACKENDS, GROUP, names_group, offered
from tests.fakes.log_lines import said


class Table(Struct, frozen=True):
    pass


class WithoutDefault(Struct, frozen=True):
    port: int


def make(_table: Table, _setup: HarnessSetup) -> Harness:
    return ScriptedHarness(name="echo")


ECHO = Backend(name="echo", aliases=("parrot",), struct=Table, make=make)
HIDDEN = Backend(name="candle", struct=Table, make=make)  # the older name of our own


class Plugin(EntryPoint):
    """An entry point that leads to an object of this file."""

    leads_to: Any

    def load(self) -> Any:
        if isinstance(self.leads_to, BaseException):
            raise self.leads_to
        return self.leads_to


OWN = (LLAMACPP, PROCESS, REMOTE)


def plugin(name: str, leads_to: object) -> EntryPoint:
    made = Plugin(name=name, value=f"package:{name}", group=GROUP)
    vars(made)["leads_to"] = leads_to
    return made


def test_the_own_backend_comes_first_and_then_those_of_packages() -> None:
    assert BACKENDS[0] is LLAMACPP
    assert offered([plugin("echo", ECHO)]) == (*OWN, ECHO)


@pytest.mark.parametrize(
    ("leads_to", "expected"),
    [
        (ImportError("no such library"), "no such library"),
        ("text", "is no `neuron_lib.backend.Backend`"),
        (LLAMACPP, "another backend has the name"),
        (SystemExit(7), "raised SystemExit: 7"),
        (Backend(name=cast("Any", 3), struct=Table, make=make), "has a name or an alias"),
        (Backend(name="two words", struct=Table, make=make), "has a name or an alias"),
        (Backend(name="echo", aliases=("",), struct=Table, make=make), "has a name or an alias"),
        (Backend(name="echo", struct=cast("Any", int), make=make), "no msgspec Struct"),
        (Backend(name="echo", struct=cast("Any", WithoutDefault), make=make), "cannot be made without a table"),
        (Backend(name="echo", struct=Table, make=cast("Any", None)), "is no function"),
    ],
)
def test_what_is_no_backend_is_left_out_with_a_warning_and_the_others_stay(
    leads_to: object, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert offered([plugin("bad", leads_to), plugin("echo", ECHO)]) == (*OWN, ECHO)
    (record,) = caplog.records
    assert expected in said(record)
    assert "'bad'" in said(record)


def test_a_package_is_found_by_its_list_of_entry_points(tmp_path: Path) -> None:
    places = [str(tmp_path / "absent"), str(tmp_path)]
    listed = tmp_path / "neuron_echo-0.1.0.dist-info" / "entry_points.txt"
    listed.parent.mkdir()
    listed.write_bytes(b"\xff")
    assert not names_group(places)
    listed.write_text("[console_scripts]\nx = y:z\n")
    assert not names_group(places)
    listed.write_text(f"[{GROUP}]\necho = neuron_echo:ECHO\n")
    assert names_group(places)


def test_no_package_takes_a_name_of_another_backend() -> None:
    assert offered([plugin("a", ECHO), plugin("b", ECHO), plugin("c", HIDDEN)]) == (*OWN, ECHO)
