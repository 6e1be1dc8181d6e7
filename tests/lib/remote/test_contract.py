"""The backend keeps the rules of every backend, against a real neuron with scripted models and two real other servers.

One of them is a program of the tests with an API like OpenAI's, the other one the server of llama-cpp-python.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuron_lib.config import AdmissionConfig
from neuron_lib.remote.entry import RemoteEntry, RemoteModel
from neuron_lib.remote.harness import RemoteHarness
from neuron_lib.testing import ScriptedModel
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject
from neuron_lib.types import ModelSpec
from tests.fakes.listening_host import listening_host
from tests.fakes.programs import PROGRAM
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S
from tests.system.daemon import accepts, eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

"""What `llama-cpp-python[server]` installs."""


@contextmanager
def program(*command: str, port: int) -> Iterator[None]:
    """A server that is ended with the block."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: accepts(port) or process.poll() is not None)
            assert process.poll() is None, "the server has ended"
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()


@pytest.fixture(scope="module", params=["neuron", "other", "llama-cpp-python"])
def entry(
    request: pytest.FixtureRequest, process: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoteEntry]:
    """What an operator says about each of the servers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    match request.param:
        case "neuron":
            with listening_host({"org/model": ScriptedModel()}, resident=["org/model"], port=port):
                yield RemoteEntry(name="other", kind="remote", url=url)
        case "other":
            models = {"org/model": RemoteModel(model_name="fake", capabilities=("text",))}
            with program("-S", str(PROGRAM), "--host", "127.0.0.1", "--port", str(port), port=port):
                yield RemoteEntry(name="other", kind="remote", url=f"{url}/v1", models=models)
        case _:
            yield from _llama_cpp_python(tmp_path_factory.mktemp("gguf") / "tiny.gguf", port)


def _llama_cpp_python(gguf: Path, port: int) -> Iterator[RemoteEntry]:
    write_synthetic(gguf, "full")
    options = ("--model_alias", "org/model", "--n_ctx", "512", "--interrupt_requests", "false", "--n_threads", "1")
    where = ("--host", "127.0.0.1", "--port", str(port))
    with program("-m", "llama_cpp.server", "--model", str(gguf), *options, *where, port=port):
        yield RemoteEntry(
            name="other",
            kind="remote",
            url=f"http://127.0.0.1:{port}/v1",
            api="llama-cpp-python",
            models={"org/model": RemoteModel(capabilities=("text",), context=512)},
            admission=AdmissionConfig(max_in_flight=1),
        )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(entry: RemoteEntry, check: Check) -> None:
    subject = Subject(
        make=lambda: RemoteHarness(entry, environ={}),
        spec=ModelSpec(model_id="org/model", harness="other"),
        bad_spec=ModelSpec(model_id="org/nobody", harness="other"),
    )
    await check(subject)
