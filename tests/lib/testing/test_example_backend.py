"""The example of a backend keeps the rules of every backend, and its entry point leads to its description."""

import sys
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from neuron_lib import ModelSpec
from neuron_lib.config import load_config
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject
from neuron_service.backends import GROUP, offered
from tests.documents import blocks

pytestmark = pytest.mark.anyio

_, CONTRACT = blocks("docs/how-to/add-a-backend.md", "python")
EXAMPLE = Path(__file__).parents[3] / "examples/echo-backend"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLE / "src")
    yield import_module("neuron_echo.harness")
    for name in ("neuron_echo.harness", "neuron_echo"):
        sys.modules.pop(name)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_example_keeps_the_rule(check: Check, package: Any) -> None:
    spec = ModelSpec(model_id="echo/parrot", harness="echo")
    bad = ModelSpec(model_id="org/other", harness="echo")
    await check(Subject(make=package.EchoHarness, spec=spec, bad_spec=bad))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract_of_the_page_holds(check: Check, package: Any) -> None:
    names: dict[str, Any] = {"__name__": package.__name__}
    exec(compile(CONTRACT, "add-a-backend.md", "exec"), names)  # noqa: S102 - the page's own code
    await names["test_the_contract"](check)


def test_the_entry_point_of_the_example_offers_its_backend_and_its_table(package: Any, tmp_path: Path) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"][GROUP].items()
    backends = offered([EntryPoint(name=name, value=value, group=GROUP)])
    file = tmp_path / "neuron.toml"
    file.write_text('harnesses = [{ name = "echo" }]\n[harness.echo]\nseats = 2\n')
    config = load_config(file, {}, sections=backends)
    assert [each.name for each in backends] == ["llamacpp", "process", "remote", "echo"]
    assert backends[-1].of(config).seats == 2
