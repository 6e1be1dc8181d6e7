"""Which files may be named, and by whom: a program names its own, a configuration those below `local_roots`, and a
request none.
"""

from pathlib import Path

import pytest

from neuron_lib.config import Config, LlamaCppConfig, ModelEntry, load_config
from neuron_lib.llamacpp import model_store
from neuron_lib.types import Discovery
from neuron_service import server
from neuron_service.backends import BACKENDS
from tests.fakes.scripted_host import CPU_HOST, ScriptedHost, scripted_host

pytestmark = pytest.mark.anyio


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def _known_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    async def discover(**_: object) -> Discovery:
        return CPU_HOST

    monkeypatch.setattr(server, "discover", discover)


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "neuron.toml"
    file.write_text(text)
    return load_config(file, {}, sections=BACKENDS)


@pytest.mark.parametrize("kind", [str, Path])
async def test_a_program_names_any_file_as_text_or_as_a_path(model: Path, kind: type[str | Path]) -> None:
    entry = ModelEntry(id="a/b", path=kind(model))
    assert await model_store(LlamaCppConfig(), models=(entry,), environ={}).is_cached("a/b")


async def test_a_program_may_restrict_itself(model: Path) -> None:
    config = LlamaCppConfig(local_roots=["/elsewhere"])
    assert not await model_store(config, models=(ModelEntry(id="a/b", path=model),), environ={}).is_cached("a/b")


@pytest.mark.parametrize(("roots", "is_allowed"), [("", False), ("local_roots = ['{here}']", True)])
async def test_a_configuration_names_files_below_its_local_roots_only(
    tmp_path: Path, model: Path, roots: str, *, is_allowed: bool
) -> None:
    entry = f"[[models]]\nid = 'a/b'\npath = '{model}'\n[harness.llamacpp]\n"
    config = configured(tmp_path, entry + roots.format(here=tmp_path))
    store = model_store(config.harness["llamacpp"], models=config.models, environ={})
    assert await store.is_cached("a/b") is is_allowed


async def refusal(host: ScriptedHost, **body: object) -> str:
    reply = await host.client.post("/models/load", {"harness": "llamacpp", **body})
    assert 400 <= reply.status < 500
    return reply.body.decode()


async def test_a_request_cannot_name_a_file(tmp_path: Path, model: Path) -> None:
    config = configured(tmp_path, f"[[models]]\nid = 'a/b'\npath = '{model}'")
    async with scripted_host(discovery=None, harnesses=("llamacpp",)) as host:
        await server._activate(host.real, config, {"HF_HUB_OFFLINE": "1"})
        for model_id in (str(model), f"file:{model}", f"file:/{model}", "../m.gguf"):
            assert "model id" in await refusal(host, model_id=model_id)
        assert "is not below any of local_roots" in await refusal(host, model_id="a/b")
        # The keys of a [[models]] entry mean nothing in a request.
        told = await refusal(host, model_id="a/c", path=str(model), local_roots=[str(tmp_path)])
        assert "a/c is not in" in told
