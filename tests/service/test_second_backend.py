"""A backend that only this file knows: its table, its names and its harness need no edit of the configuration."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.config import Config, load_config
from neuron_lib.errors import ConfigError, LoadFailed
from neuron_lib.harness import Harness
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import Discovery, ModelSpec
from neuron_service import server
from neuron_service.cli.config_check import find_model_faults
from neuron_service.running import make_harnesses
from tests.fakes.scripted_host import CPU_HOST, scripted_host

FILE = """
default_models = [{ model_id = "org/far", harness = "parrot" }]
harnesses = [{ name = "echo" }]
[harness.parrot]
address = "http://127.0.0.1:9"
"""


class EchoConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    address: str = "http://127.0.0.1:8080"
    patience_secs: float = 5.0


class EchoHarness(ScriptedHarness):
    def __init__(self, config: EchoConfig, setup: HarnessSetup) -> None:
        super().__init__(name="echo")
        self.config = config
        self.setup = setup


MADE: list[EchoHarness] = []


def make(config: EchoConfig, setup: HarnessSetup) -> Harness:
    MADE.append(EchoHarness(config, setup))
    return MADE[-1]


def check_spec(spec: ModelSpec) -> None:
    if spec.quant is not None:
        raise LoadFailed("an echo has no quants")


ECHO = Backend(name="echo", struct=EchoConfig, aliases=("parrot",), make=make, check_spec=check_spec)
BACKENDS = (LLAMACPP, ECHO)


@pytest.fixture(autouse=True)
def _no_harness_made() -> Iterator[None]:
    MADE.clear()
    yield
    MADE.clear()


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    return load_config(path, environ, sections=BACKENDS)


def test_its_table_is_read_from_the_file_and_the_environment_by_any_of_its_names(tmp_path: Path) -> None:
    config = load(tmp_path, FILE, NEURON_HARNESS__PARROT__PATIENCE_SECS="9")
    assert ECHO.of(config) == EchoConfig(address="http://127.0.0.1:9", patience_secs=9.0)
    assert LLAMACPP.of(config).local_roots == ()
    assert [entry.name for entry in config.harnesses] == ["echo"]


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("[harness.parrot]\nadress = 1", {}, "unknown key `harness.parrot.adress`; did you mean `address`?"),
        ("[harness.echo]\npatience_secs = 'x'", {}, "`harness.echo.patience_secs`: expected `float`, got `str`"),
        (
            "",
            {"NEURON_HARNESS__ECHO__PATIENCE_SECS": "[1]"},
            "`harness.echo.patience_secs`: expected `float`, got `array`",
        ),
        ("[harness.vllm]", {}, "unknown key `harness.vllm`; known here: llamacpp, echo"),
    ],
)
def test_a_mistake_in_its_table_is_named_like_any_other(
    tmp_path: Path, text: str, environ: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text, **environ)
    assert expected in raised.value.message


def test_its_models_are_checked_by_itself_and_by_no_store(tmp_path: Path) -> None:
    config = load(tmp_path, FILE.replace('"org/far"', '"no slash", quant = "Q8_0"'))
    assert list(find_model_faults(config, {}, backends=BACKENDS)) == [
        "`default_models[0].devices`: an echo has no quants"
    ]


@pytest.mark.anyio
async def test_a_host_makes_its_harness_and_loads_models_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def discover(**_: object) -> Discovery:
        return CPU_HOST

    monkeypatch.setattr(server, "discover", discover)
    config = load(tmp_path, FILE)
    async with scripted_host(discovery=None, default_models=config.default_models, harnesses=("echo",)) as host:
        await server._activate(host.real, config, {"NAME": "value"}, BACKENDS)
        assert host.registry.harness_names == ("scripted", "echo")
        [model] = host.registry.list_models()
    assert (model.id, model.harness) == ("org/far", "echo")
    [harness] = MADE
    assert harness.config == EchoConfig(address="http://127.0.0.1:9")
    assert harness.setup.environ == {"NAME": "value"}


def no_driver(_config: EchoConfig, _setup: HarnessSetup) -> Harness:
    raise OSError("no driver here")


def no_harness(_config: EchoConfig, _setup: HarnessSetup) -> Any:
    return 42


@pytest.mark.anyio
@pytest.mark.parametrize(("make", "reason"), [(no_driver, "no driver here"), (no_harness, "no attribute 'name'")])
async def test_a_backend_that_cannot_be_made_is_named(make: Any, reason: str) -> None:
    broken = dataclasses.replace(ECHO, make=make)
    async with scripted_host(harnesses=("echo",)) as host:
        with pytest.raises(ConfigError, match=f"the backend 'echo' in `harnesses` cannot be made: .*{reason}"):
            await make_harnesses(host.real, Config(), {}, [broken])
