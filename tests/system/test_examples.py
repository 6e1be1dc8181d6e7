"""The programs in `examples/` run as they stand, with the demo's model. `make test-examples` runs this file."""

import importlib.util
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.documents import blocks
from tests.patience import PATIENCE_S
from tests.system.daemon import ROOT, eventually

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.process]

EXAMPLES = ROOT / "examples"
TESTED_ELSEWHERE = {"echo-backend", "kubernetes", "litellm", "ray_serve"}
(PROGRESS,) = blocks("docs/how-to/show-load-progress.md", "python")


def run(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
    )
    return done.stdout


@contextmanager
def served(application: str) -> Iterator[httpx.Client]:
    """An application of `examples/` behind uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        arguments = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--fd", str(sock.fileno()), application]
        server = subprocess.Popen(
            [sys.executable, *arguments],
            pass_fds=[sock.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        with server, httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=PATIENCE_S) as client:
            try:
                yield client
            finally:
                server.terminate()


def test_every_example_is_in_the_list_and_has_a_test() -> None:
    listed = re.findall(r"^\| \[([^]]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    found = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("_", "."))} - {"README.md"}
    assert sorted(listed) == sorted(found)
    tests = Path(__file__).read_text()
    assert [name for name in listed if name.partition(".")[0] not in tests and name not in TESTED_ELSEWHERE] == []


@pytest.mark.parametrize("program", ["trio_chat", "script", "worker"])
def test_a_program_prints_a_reply(program: str, tmp_path: Path) -> None:
    *_, reply = run(str(EXAMPLES / f"{program}.py"), folder=tmp_path).strip().splitlines()
    assert reply


def test_the_progress_of_a_load_is_printed_before_the_reply(tmp_path: Path) -> None:
    printed = run(str(EXAMPLES / "asyncio_chat.py"), folder=tmp_path)
    assert re.search(
        r"SmolLM2-135M-Instruct: loading\b.*SmolLM2-135M-Instruct: warming\b.*tokens$", printed.strip(), re.DOTALL
    )


def test_the_function_of_the_page_about_progress_is_that_of_the_program() -> None:
    assert PROGRESS in (EXAMPLES / "asyncio_chat.py").read_text()


def test_the_tests_of_a_program_pass(tmp_path: Path) -> None:
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    printed = run(*arguments, str(EXAMPLES / "test_with_pytest.py"), folder=tmp_path)
    assert "6 passed" in printed


def test_the_fastapi_application_streams_a_reply_and_refuses_before_it() -> None:
    pytest.importorskip("fastapi")
    with served("fastapi_app:app") as client:
        eventually(lambda: client.get("/ready").json()["ready"])
        answer = client.get("/ask", params={"question": "Name three colours."})
        assert (answer.status_code, bool(answer.text)) == (httpx.codes.OK, True)
        too_long = client.get("/ask", params={"question": "word " * 9000})
        assert (too_long.status_code, "context" in too_long.text) == (httpx.codes.BAD_REQUEST, True)


def test_the_litestar_application_serves_its_own_routes_and_all_of_neuron_below_a_path() -> None:
    with served("litestar_app:app") as client:
        assert client.get("/").text == "neuron is below /neuron"
        eventually(lambda: client.get("/neuron/health").json()["activation"]["state"] == "ready")
        (model,) = client.get("/neuron/v1/models").json()["data"]
        body = {"model": model["id"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        answer = client.post("/neuron/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"]


def test_the_django_application_answers(tmp_path: Path) -> None:
    pytest.importorskip("django")
    program = (
        "import django_app; from django.test import Client; "
        "answer = Client().get('/ask', {'question': 'Name three colours.'}); "
        "print(answer.status_code, b''.join(answer.streaming_content).decode())"
    )
    printed = run("-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); {program}", folder=tmp_path)
    assert re.match(r"200 \S", printed)


def test_the_cells_of_the_notebook_run_one_after_another(tmp_path: Path) -> None:
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("needs ipykernel")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook: Any = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=int(PATIENCE_S), kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert "".join(output.text for output in outputs if output.get("name") == "stdout").strip()
