"""How many fetches a store runs at once, and who does not wait for them."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from neuron_lib.config import DownloadConfig, ModelEntry, SourceConfig
from neuron_lib.sources import ModelStore
from neuron_lib.sources.fetch_protocol import Fetched, FetchOrder
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec
from tests.fakes.gguf_bytes import gguf
from tests.fakes.model_cache import COMMIT, REPOSITORY, put

pytestmark = pytest.mark.anyio

HANG_S = 30.0


class HeldFetches:
    """Takes the place of `run_fetch`: notes who began, and holds each until it is cancelled."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0

    async def __call__(self, order: FetchOrder, **_: object) -> Fetched:
        if order.listing is not None:
            return Fetched(commit=COMMIT, paths=())
        self.running.append(order.repository.repo_id)
        self.most = max(self.most, len(self.running))
        try:
            await anyio.sleep_forever()
        finally:
            self.running.remove(order.repository.repo_id)
        raise AssertionError


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> HeldFetches:
    held = HeldFetches()
    monkeypatch.setattr("neuron_lib.sources.fetch_process.run_fetch", held)
    return held


def store_in(cache: Path, *, download: DownloadConfig | None = None) -> ModelStore:
    source = SourceConfig(endpoint="http://127.0.0.1:9", cache_dir=cache)
    entry = ModelEntry(id="org/elsewhere", repo=REPOSITORY)
    return ModelStore(sources={"huggingface": source}, entries=(entry,), download=download, environ={})


class Load:
    """One caller of a store; knows what it was told last."""

    def __init__(self, store: ModelStore, model_id: str) -> None:
        self.spec = ModelSpec(model_id=model_id, harness="llamacpp")
        self.store = store
        self.told: list[LoadProgress] = []
        self.has_news = anyio.Event()
        self.scope = anyio.CancelScope()

    def report(self, progress: LoadProgress) -> None:
        self.told.append(progress)
        self.has_news.set()
        self.has_news = anyio.Event()

    async def run(self) -> None:
        with self.scope:
            await self.store.fetch(self.spec, report=self.report)

    async def wait_position(self, position: int) -> None:
        while not self.told or self.told[-1].queue_position != position:
            await self.has_news.wait()


@pytest.mark.parametrize("max_fetches", [1, 2, 3])
async def test_no_more_models_are_fetched_at_once_than_configured_and_each_other_says_its_position(
    fetches: HeldFetches, tmp_path: Path, max_fetches: int
) -> None:
    store = store_in(tmp_path, download=DownloadConfig(max_fetches=max_fetches))
    loads = [Load(store, f"org/m{number}") for number in range(max_fetches + 3)]
    with anyio.fail_after(HANG_S):
        async with anyio.create_task_group() as tasks:
            for load in loads:
                tasks.start_soon(load.run)
            by_position: dict[int, Load] = {}
            while len(by_position) < 3:
                await anyio.lowlevel.checkpoint()
                waiting = [load for load in loads if load.told and load.told[-1].queue_position]
                by_position = {load.told[-1].queue_position or 0: load for load in waiting}
            assert len(fetches.running) == max_fetches
            assert sorted(by_position) == [1, 2, 3]
            assert {load.told[-1].stage for load in by_position.values()} == {LoadStage.RESOLVING}

            by_position[1].scope.cancel()
            await by_position[2].wait_position(1)
            await by_position[3].wait_position(2)
            first = next(load for load in loads if load.spec.model_id == fetches.running[0])
            first.scope.cancel()
            while by_position[2].spec.model_id not in fetches.running:
                await anyio.lowlevel.checkpoint()
            assert by_position[2].told[-1].queue_position is None
            tasks.cancel_scope.cancel()
    assert (fetches.running, fetches.most) == ([], max_fetches)


@pytest.mark.parametrize("is_hashed", [True, False])
async def test_a_model_that_is_in_the_cache_waits_for_no_download(
    fetches: HeldFetches, tmp_path: Path, *, is_hashed: bool
) -> None:
    store = store_in(tmp_path)
    put(tmp_path, {"m-Q8_0.gguf": gguf()}, is_hashed=is_hashed)
    waiting = [Load(store, f"org/m{number}") for number in range(3)]
    cached = Load(store, "org/elsewhere")
    with anyio.fail_after(HANG_S):
        async with anyio.create_task_group() as tasks:
            for load in waiting:
                tasks.start_soon(load.run)
            while not any(load.told and load.told[-1].queue_position for load in waiting):
                await anyio.lowlevel.checkpoint()
            await cached.run()
            tasks.cancel_scope.cancel()
    assert [progress.queue_position for progress in cached.told if progress.queue_position] == []
    assert cached.told[-1].stage is LoadStage.VERIFYING


def test_two_models_are_fetched_at_once_unless_configured_otherwise() -> None:
    assert DownloadConfig().max_fetches == 2
