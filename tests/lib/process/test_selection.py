"""Which harness gets a model, where a load names none: the model's entry decides, and then the format of its files."""

from pathlib import Path

import pytest

from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.errors import UnknownHarness
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.process.entry import ProcessEntry, ProcessModel
from neuron_lib.process.harness import ProcessHarness
from neuron_lib.registry.harness_by_format import HarnessByFormat
from neuron_lib.types import ModelSpec

pytestmark = pytest.mark.anyio


@pytest.fixture
def harnesses(tmp_path: Path) -> HarnessByFormat:
    """One of our own engine, and two programs, of which one loads safetensors and one fetches by itself."""
    for name in ("both.gguf", "folder/config.json", "folder/model.safetensors", "voice.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    models = (
        ModelEntry(id="org/gguf", path=tmp_path / "both.gguf"),
        ModelEntry(id="org/folder", path=tmp_path / "folder"),
        ModelEntry(id="org/voice", path=tmp_path / "voice.bin"),
        ModelEntry(id="org/given", path=tmp_path / "both.gguf", harness="fetcher"),
        ModelEntry(id="org/older", path=tmp_path / "both.gguf", harness="candle"),
    )
    store = LlamaCppConfig(local_roots=(tmp_path,))
    loader = ProcessEntry(name="loader", kind="process", command=("serve", "{path}", "{port}"))
    fetcher = ProcessEntry(name="fetcher", kind="process", command=("serve", "{model}", "{port}"))
    return HarnessByFormat(
        [
            LlamaCppHarness(store, models=models),
            ProcessHarness(fetcher, models=models, store=store),
            ProcessHarness(loader, models=models, store=store),
        ]
    )


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("org/gguf", "llamacpp"),
        ("org/folder", "loader"),
        ("org/given", "fetcher"),
        ("org/older", "llamacpp"),
    ],
)
async def test_the_entry_of_a_model_decides_and_then_its_files(
    model_id: str, expected: str, harnesses: HarnessByFormat
) -> None:
    assert (await harnesses.choose(ModelSpec(model_id=model_id))).name == expected


async def test_a_model_that_no_harness_loads_is_refused_with_what_each_loads(harnesses: HarnessByFormat) -> None:
    with pytest.raises(UnknownHarness, match=r"llamacpp takes gguf, .*loader takes safetensors; name a harness"):
        await harnesses.choose(ModelSpec(model_id="org/voice"))


async def test_a_program_that_fetches_by_itself_takes_the_models_that_it_is_told_of_alone() -> None:
    entry = ProcessEntry(
        name="fetcher", kind="process", command=("serve", "{model}", "{port}"), models={"org/own": ProcessModel()}
    )
    harness = ProcessHarness(entry, store=LlamaCppConfig())
    assert await harness.takes(ModelSpec(model_id="org/own"))
    assert not await harness.takes(ModelSpec(model_id="org/other"))
