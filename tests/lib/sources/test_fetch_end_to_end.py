"""The real fetch process with the real client: killed, cancelled, doubled, on bad disks, and beside other tools."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # imported lazily, which hides it
from trio.testing import MockClock

from neuron_lib.config import DownloadConfig, SourceConfig
from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources import ModelStore
from neuron_lib.sources.fetch_process import fetch_environment, run_fetch
from neuron_lib.sources.fetch_protocol import Fetched, FetchOrder, encode_line
from neuron_lib.sources.hub_cache import blob_path, list_cached, lock_path, partial_path, repository_folder
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec
from tests.fakehub import FakeHub, fake_hub
from tests.fakes.gguf_bytes import gguf
from tests.fakes.hub_faults import Drip, NeverAnswers, Stall, Status
from tests.fakes.model_cache import assert_sound, children, known_file, order_for, put, repository_in

pytestmark = pytest.mark.process

MODEL = gguf() + Random(1).randbytes(400_000)  # noqa: S311 - not a secret
FILE = known_file(MODEL)
HALF = 200_000
TOKEN = "hf_secret"  # noqa: S105
SPEC = ModelSpec(model_id="org/name", harness="llamacpp")
WORKER = (sys.executable, "-P", "-m", "neuron_lib.sources.fetch_worker")
ENVIRONMENT = fetch_environment(os.environ)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub({"org/name": {"m.gguf": MODEL}}) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """What is here after a test is whole, and no process is left."""
    yield tmp_path
    assert_sound(tmp_path)


@pytest.fixture
def order(hub: FakeHub, cache: Path) -> FetchOrder:
    return order_for(repository_in(cache, endpoint=hub.url))


@pytest.fixture
def store(hub: FakeHub, cache: Path) -> ModelStore:
    return ModelStore(sources={"huggingface": SourceConfig(endpoint=hub.url, cache_dir=cache)}, environ=os.environ)


def ignore(_: LoadProgress) -> None:
    pass


def at_half(act: Callable[[], object]) -> Callable[[LoadProgress], None]:
    """Do something when the first half is here, once."""
    acts = [act]

    def look(progress: LoadProgress) -> None:
        if progress.bytes == HALF and acts:
            acts.pop()()

    return look


async def run(order: FetchOrder, report: Callable[[LoadProgress], None] = ignore) -> Fetched:
    return await run_fetch(order, environment=ENVIRONMENT, report=report)


async def failure(
    order: FetchOrder, report: Callable[[LoadProgress], None] = ignore, command: Sequence[str] | None = None
) -> NeuronError:
    options: dict[str, Any] = {} if command is None else {"command": command}
    with pytest.raises(NeuronError) as raised:
        await run_fetch(order, environment=ENVIRONMENT, report=report, **options)
    assert list_cached(order.repository) is None
    return raised.value


def partial_of(order: FetchOrder) -> Path:
    return partial_path(repository_folder(order.repository), FILE.blob)


def files_asked(hub: FakeHub) -> list[tuple[str | None, int]]:
    """The range and the bytes sent of each request for a file."""
    return [(asked.range, asked.sent_bytes) for asked in hub.log if "/resolve/" in asked.path]


def kill_child() -> None:
    [pid] = children()
    os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------------- interrupted


async def assert_the_rest_is_fetched(order: FetchOrder, hub: FakeHub) -> None:
    """The next fetch goes on where the last one had written to, and nothing is sent twice that had been written."""
    written = partial_of(order).stat().st_size
    assert 0 < written <= HALF
    hub.heal()
    hub.release()
    hub.log.clear()
    [path] = (await run(order)).paths
    assert path.read_bytes() == MODEL
    assert files_asked(hub) == [(f"bytes={written}-", len(MODEL) - written)]


@pytest.mark.anyio
async def test_a_process_that_was_killed_is_gone_on_from(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(Stall(HALF))
    error = await failure(order, at_half(kill_child))
    assert isinstance(error, SourceUnavailable)
    assert "status -9" in error.message
    await assert_the_rest_is_fetched(order, hub)


@pytest.mark.both_loops
@pytest.mark.anyio
async def test_a_fetch_that_was_cancelled_is_gone_on_from(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(Stall(HALF))
    with anyio.CancelScope() as scope:
        await run(order, at_half(scope.cancel))
    assert scope.cancelled_caught
    assert not children()
    await assert_the_rest_is_fetched(order, hub)


class TestDeadline:
    """In virtual time, so on trio alone."""

    @pytest.fixture
    def clock(self) -> MockClock:
        return MockClock()

    @pytest.fixture
    def anyio_backend(self, clock: MockClock) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": clock}

    @pytest.mark.anyio
    async def test_a_fetch_that_took_too_long_is_gone_on_from(
        self, hub: FakeHub, order: FetchOrder, clock: MockClock
    ) -> None:
        hub.fail(Stall(HALF))
        error = await failure(order, at_half(lambda: clock.jump(order.limits.deadline_secs)))
        assert isinstance(error, SourceUnavailable)
        assert "longer than 43200 s" in error.message
        await assert_the_rest_is_fetched(order, hub)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", [Stall(HALF), Drip(1000)])
async def test_a_hub_that_is_too_slow_is_given_up(hub: FakeHub, order: FetchOrder, fault: Stall | Drip) -> None:
    hub.fail(fault)
    limits = DownloadConfig(min_rate_window_secs=1, min_kb_per_s=1000)
    error = await failure(order_for(order.repository, limits=limits))
    assert isinstance(error, SourceUnavailable)
    assert "less than 1000 KiB/s for 1 s" in error.message
    assert "the hub sends too little" in error.message


@pytest.mark.both_loops
@pytest.mark.anyio
async def test_cancelling_does_not_wait_for_a_hub_that_does_not_answer(hub: FakeHub, store: ModelStore) -> None:
    hub.fail(NeverAnswers())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: store.fetch(SPEC, report=ignore))
        await anyio.to_thread.run_sync(hub.wait_held)
        tasks.cancel_scope.cancel()
    assert not children()


@contextmanager
def worker(order: FetchOrder, *, command: Sequence[str] = WORKER) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has its order, with all that it says in pipes."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        process.stdin.write(encode_line(order))
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def test_a_process_ends_when_its_daemon_has(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(NeverAnswers())
    with worker(order) as process:
        hub.wait_held()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.read() == b""  # else it had waited for the hub
        assert process.wait() == 0


def test_a_process_ends_with_its_daemon_even_if_its_stdin_does_not(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(NeverAnswers())
    with worker(order, command=("sh", "-c", 'exec 3<&0; "$@" <&3 & wait', "sh", *WORKER)) as daemon:
        hub.wait_held()
        assert daemon.stdout is not None
        daemon.kill()
        assert daemon.stdout.read() == b""  # else it had waited for the hub


# ------------------------------------------------------------------------------------------------------- two at once


@pytest.mark.anyio
async def test_two_processes_on_one_cache_fetch_once(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(Stall(HALF))
    found: list[Fetched] = []

    async def second() -> None:
        found.append(await run(order, at_half(hub.release)))

    async with anyio.create_task_group() as tasks:
        found.append(await run(order, at_half(lambda: tasks.start_soon(second))))
    assert found[0] == found[1]
    assert files_asked(hub) == [(None, len(MODEL))]


@pytest.mark.anyio
async def test_who_waits_for_a_process_that_dies_goes_on_in_its_place(hub: FakeHub, order: FetchOrder) -> None:
    hub.fail(Stall(HALF), times=1)

    async def second() -> None:
        [first] = children()
        [path] = (await run(order, at_half(lambda: os.kill(first, signal.SIGKILL)))).paths
        assert path.read_bytes() == MODEL

    async with anyio.create_task_group() as tasks:
        with pytest.raises(SourceUnavailable):
            await run(order, at_half(lambda: tasks.start_soon(second)))
    (_, (rest, sent)) = files_asked(hub)
    assert rest == f"bytes={len(MODEL) - sent}-"
    assert sent < len(MODEL)


# ----------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_token_is_in_no_command_line_and_no_environment(hub: FakeHub, order: FetchOrder) -> None:
    seen: list[bytes] = []

    def look() -> None:
        [pid] = children()
        seen.extend(Path("/proc", str(pid), name).read_bytes() for name in ("cmdline", "environ"))
        hub.release()

    hub.fail(Stall(HALF))
    repository = repository_in(order.repository.cache_dir, endpoint=hub.url, token=TOKEN)
    await run(order_for(repository), at_half(look))
    cmdline, environ = seen
    assert b"fetch_worker" in cmdline
    assert b"PYTHONPATH=" in environ
    assert TOKEN.encode() not in cmdline + environ
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("status", [200, 401, 403, 429, 503])
def test_the_token_is_in_nothing_a_process_says(hub: FakeHub, order: FetchOrder, status: int) -> None:
    if status != 200:
        hub.fail(Status(status, {"X-Error-Message": f"no: Bearer {TOKEN}", "Retry-After": "3600"}), path="*/resolve/*")
    with worker(order_for(repository_in(order.repository.cache_dir, endpoint=hub.url, token=TOKEN))) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read() + process.stderr.read()
    assert (b'"type":"fetched"' if status == 200 else b'"type":"failed"') in said
    assert TOKEN.encode() not in said
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


# ------------------------------------------------------------------------------------------------------------- disks


def on_disk(setup: str, *arguments: object, then: str = "") -> Sequence[str]:
    """A fetch process for which `setup` has mounted what nobody else sees."""
    script = f'worker=$1; shift; {setup} && "$worker" -P -m neuron_lib.sources.fetch_worker; {then}'
    return ("unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, *map(str, arguments))


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'


@pytest.fixture(scope="module")
def _may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("mount")
    script = f"{READ_ONLY} && mount -t tmpfs -o size=64k none $1"
    command = ("unshare", "-Urm", "sh", "-c", script, "sh", place)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"no private mounts here: {ended.stderr.strip()}")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.usefixtures("_may_mount")
class TestDisk:
    async def test_a_disk_without_enough_room_is_told_before_the_first_byte(
        self, hub: FakeHub, order: FetchOrder, cache: Path
    ) -> None:
        error = await failure(order, command=on_disk('mount -t tmpfs -o size=256k none "$1"', cache))
        assert isinstance(error, PreflightFailed)
        assert error.kind is PreflightKind.INSUFFICIENT_STORAGE
        assert error.fields["required_bytes"] == len(MODEL)
        assert 0 < error.fields["free_bytes"] <= 256 << 10
        assert error.fields["directory"] == str(cache)
        assert not files_asked(hub)

    async def test_a_disk_that_becomes_full_is_told_and_its_room_given_back(
        self, hub: FakeHub, order: FetchOrder, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        # What another tool has begun counts as ours until it turns out to be of no use.
        other = repository_folder(order.repository) / "blobs" / f"{FILE.blob}.1.incomplete"
        fill = 'mount -t tmpfs -o size=512k none "$1" && mkdir -p "${2%/*}" && head -c 300000 /dev/zero > "$2"'
        error = await failure(order, command=on_disk(fill, cache, other, then='echo left: $(ls "${2%/*}") >&2'))
        assert isinstance(error, PreflightFailed)
        assert error.kind is PreflightKind.INSUFFICIENT_STORAGE
        assert "the disk is full" in error.message
        assert files_asked(hub)
        assert any(message.startswith(f"left: {other.name} ") for message in caplog.messages)

    async def test_a_cache_that_cannot_be_written_to_is_told(
        self, hub: FakeHub, order: FetchOrder, cache: Path
    ) -> None:
        error = await failure(order, command=on_disk(READ_ONLY, cache))
        assert isinstance(error, PreflightFailed)
        assert error.kind is PreflightKind.CACHE_NOT_WRITABLE
        assert "Read-only file system" in error.message
        assert not files_asked(hub)

    async def test_a_model_in_a_cache_that_cannot_be_written_to_loads(
        self, hub: FakeHub, store: ModelStore, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [path] = put(cache, {"m.gguf": MODEL}, is_hashed=False)
        monkeypatch.setattr(
            "neuron_lib.sources.fetch_process.run_fetch", partial(run_fetch, command=on_disk(READ_ONLY, cache))
        )
        assert (await store.fetch(SPEC, report=ignore)).path == path
        assert not hub.requests

    async def test_a_wrong_model_in_a_cache_that_cannot_be_written_to_does_not_load(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        [path] = put(tmp_path, {"m.gguf": MODEL}, is_hashed=False)
        path.write_bytes(MODEL[::-1])
        monkeypatch.setattr(
            "neuron_lib.sources.fetch_process.run_fetch", partial(run_fetch, command=on_disk(READ_ONLY, tmp_path))
        )
        store = ModelStore(sources={}, hf_cache=tmp_path, environ={"HF_HUB_OFFLINE": "1"})
        with pytest.raises(PreflightFailed) as raised:
            await store.fetch(SPEC, report=ignore)
        assert raised.value.kind is PreflightKind.CACHE_NOT_WRITABLE
        assert "m.gguf is not what its hub says it is" in caplog.text
        assert "cannot be deleted" in caplog.text


# ------------------------------------------------------------------------------------------------------- other tools


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestSharedCache:
    async def test_the_tools_of_the_hub_find_what_we_fetched(
        self, hub: FakeHub, store: ModelStore, cache: Path
    ) -> None:
        model = await store.fetch(SPEC, report=ignore)
        assert hf_hub_download("org/name", "m.gguf", cache_dir=cache, local_files_only=True) == str(model.path)
        assert try_to_load_from_cache("org/name", "m.gguf", cache_dir=cache) == str(model.path)
        scan = scan_cache_dir(cache)
        assert not scan.warnings
        assert [(repo.repo_id, repo.size_on_disk) for repo in scan.repos] == [("org/name", len(MODEL))]
        hub.log.clear()
        assert hf_hub_download("org/name", "m.gguf", cache_dir=cache, endpoint=hub.url) == str(model.path)
        assert not [asked for asked in hub.log if asked.method == "GET" and asked.sent_bytes]

    async def test_we_find_what_the_tools_of_the_hub_fetched(
        self, hub: FakeHub, store: ModelStore, cache: Path
    ) -> None:
        path = hf_hub_download("org/name", "m.gguf", cache_dir=cache, endpoint=hub.url)
        hub.log.clear()
        seen: list[LoadProgress] = []
        assert (await store.fetch(SPEC, report=seen.append)).path == Path(path)
        assert not hub.log
        assert LoadStage.DOWNLOADING not in {progress.stage for progress in seen}

    async def test_we_wait_for_the_tools_of_the_hub(self, hub: FakeHub, order: FetchOrder) -> None:
        folder = repository_folder(order.repository)
        lock = lock_path(folder, FILE.blob)
        lock.parent.mkdir(parents=True)
        with ExitStack() as held:
            held.enter_context(WeakFileLock(lock))

            def finish(progress: LoadProgress) -> None:
                if not blob_path(folder, FILE.blob).exists():
                    blob_path(folder, FILE.blob).parent.mkdir(parents=True)
                    blob_path(folder, FILE.blob).write_bytes(MODEL)
                    held.close()

            [path] = (await run(order, finish)).paths
        assert path.read_bytes() == MODEL
        assert not files_asked(hub)
