"""What a load would take is said before it, by an engine process that loads nothing, and a load that does not fit is
refused before it begins.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from neuron_lib import Registry
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry, SourceConfig
from neuron_lib.errors import LoadFailed, PreflightFailed, PreflightKind
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.synthetic_gguf import write_synthetic

pytestmark = [pytest.mark.anyio, pytest.mark.process]

SPEC = ModelSpec(model_id="org/small", harness="llamacpp")
CONFIG = LlamaCppConfig(n_ctx=1024, n_ubatch=64, threads=1, admission=AdmissionConfig(max_in_flight=3))
TOO_MUCH = 1 << 24
"""Cells of 512 bytes for each of 200 sequences: more than a terabyte."""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("estimated") / "small-Q8_0.gguf"
    write_synthetic(path, "full", describe=lambda writer: writer.add_context_length(TOO_MUCH))
    return path


@pytest.fixture
def hub(model_file: Path) -> Iterator[FakeHub]:
    with fake_hub({"org/small": {model_file.name: model_file}}) as hub:
        yield hub


def harness_of(model_file: Path, config: LlamaCppConfig = CONFIG) -> LlamaCppHarness:
    return LlamaCppHarness(config, models=(ModelEntry(id="org/small", path=model_file),), environ=os.environ)


async def test_an_estimate_says_what_the_load_then_has(model_file: Path) -> None:
    harness = harness_of(model_file)
    plan = await harness.estimate(SPEC)
    assert psutil.Process().children() == []
    assert plan.fits
    assert (plan.n_ctx, plan.seats, plan.kv_layout, plan.kv_cells) == (1024, 3, "per_sequence", 3 * 1024)
    assert plan.devices[0].context_bytes == 3 * 1024 * 512
    async with harness.open(SPEC, model_id="org/small", report=lambda _: None) as model:
        limit = model.info().limit
    assert limit is not None
    assert limit.context == plan.n_ctx


async def test_the_need_on_an_empty_host_is_that_of_the_plan(model_file: Path) -> None:
    harness = harness_of(model_file)
    plan, need = await harness.estimate(SPEC), await harness.memory_need(SPEC)
    assert need.keys() == {"cpu"}
    assert abs(need["cpu"] - plan.needs["cpu"]) < 0.03 * plan.needs["cpu"]


async def test_a_load_that_does_not_fit_is_refused_before_any_weights_are_read(model_file: Path) -> None:
    config = msgspec.structs.replace(
        CONFIG, n_ctx=TOO_MUCH, kv_layout="per_sequence", admission=AdmissionConfig(max_in_flight=200)
    )
    harness, progress = harness_of(model_file, config), list[LoadProgress]()
    plan = await harness.estimate(SPEC)
    assert not plan.fits
    with pytest.raises(PreflightFailed) as refused:
        async with harness.open(SPEC, model_id="org/small", report=progress.append):
            pytest.fail("it loaded")
    assert refused.value.kind is PreflightKind.INSUFFICIENT_MEMORY
    assert refused.value.fields["device"] == "cpu"
    assert refused.value.fields["needed_bytes"] > 200 * TOO_MUCH * 512 > refused.value.fields["free_bytes"]
    assert {step.fraction for step in progress if step.stage is LoadStage.LOADING} == {0.0}
    assert psutil.Process().children() == []


async def test_a_model_on_a_hub_is_estimated_by_its_header_alone(
    hub: FakeHub, tmp_path: Path, model_file: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, hf_cache=tmp_path, sources={"huggingface": SourceConfig(endpoint=hub.url)})
    plan = await LlamaCppHarness(config, environ=os.environ).estimate(SPEC)
    here = await harness_of(model_file).estimate(SPEC)
    assert plan.devices[0].weights_bytes == here.devices[0].weights_bytes
    assert plan.devices[0].context_bytes == here.devices[0].context_bytes
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - an empty directory is listed at once


async def test_a_file_that_is_no_model_has_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    with pytest.raises(LoadFailed, match=r"no.gguf is no usable GGUF"):
        await harness_of(tmp_path / "no.gguf").estimate(SPEC)


async def test_a_registry_estimates_with_the_harness_of_the_spec(model_file: Path) -> None:
    async with Registry([harness_of(model_file)]) as registry:
        assert (await registry.estimate(SPEC)).seats == 3
        assert (registry.list_models(), registry.loading()) == ((), ())
        with pytest.raises(LoadFailed, match="unknown harness"):
            await registry.estimate(msgspec.structs.replace(SPEC, harness="other"))


async def test_a_model_whose_weights_exceed_what_is_free_is_refused_before_it_is_fetched(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceConfig(endpoint=hub.url, cache_dir=str(tmp_path / "cache"))
    harness = LlamaCppHarness(msgspec.structs.replace(CONFIG, sources={"huggingface": source}), environ={})
    monkeypatch.setattr("neuron_lib.usable_memory.free_bytes", lambda: 1 << 12)
    with pytest.raises(PreflightFailed, match="so it is not fetched") as refused:
        async with harness.open(SPEC, model_id="org/small", report=lambda _: None):
            pytest.fail("it loaded")
    assert refused.value.kind is PreflightKind.INSUFFICIENT_MEMORY
    assert refused.value.fields["needed_bytes"] > refused.value.fields["free_bytes"] == 1 << 12
    assert not [request for request in hub.requests if "resolve" in request]


async def test_a_model_whose_cells_do_not_fit_is_refused_before_it_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    source = SourceConfig(endpoint=hub.url, cache_dir=str(tmp_path / "cache"))
    config = msgspec.structs.replace(
        CONFIG,
        n_ctx=TOO_MUCH,
        kv_layout="per_sequence",
        admission=AdmissionConfig(max_in_flight=200),
        sources={"huggingface": source},
    )
    with pytest.raises(PreflightFailed, match="org/small does not fit: it needs") as refused:
        async with LlamaCppHarness(config, environ=os.environ).open(SPEC, model_id="org/small", report=lambda _: None):
            pytest.fail("it loaded")
    assert refused.value.kind is PreflightKind.INSUFFICIENT_MEMORY
    assert refused.value.fields["needed_bytes"] > 200 * TOO_MUCH * 512 > refused.value.fields["free_bytes"]
    assert not (tmp_path / "cache").exists()


async def test_without_a_check_of_the_memory_a_model_is_fetched_at_once(hub: FakeHub, tmp_path: Path) -> None:
    source = SourceConfig(endpoint=hub.url, cache_dir=str(tmp_path / "cache"))
    config = msgspec.structs.replace(CONFIG, memory_check="warn", sources={"huggingface": source})
    async with LlamaCppHarness(config, environ=os.environ).open(SPEC, model_id="org/small", report=lambda _: None):
        assert len([request for request in hub.requests if request.startswith("GET") and "resolve" in request]) == 1
