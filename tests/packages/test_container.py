"""The image of the Containerfile: built by buildah, which needs no daemon, from an empty Debian, and run."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.documents import ROOT
from tests.packages.debian import base_system
from tests.system.daemon import eventually, free_port

CONTAINERFILE = (ROOT / "Containerfile").read_text()
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
QUESTION = {
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
}


def test_what_the_image_copies_from_the_checkout_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    assert copied
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []


def test_nothing_that_git_ignores_gets_into_the_image() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")}
    left_out = {line.removeprefix("**/") for line in (ROOT / ".containerignore").read_text().splitlines()}
    assert {name for name in ignored if not name.startswith("*")} - left_out == set()


class Buildah:
    """buildah with a storage of its own, without namespaces and without a daemon."""

    def __init__(self, folder: Path) -> None:
        storage = ["--root", folder / "storage", "--runroot", folder / "run"]
        self._command = ["buildah", "--storage-driver", "vfs", *map(str, storage)]

    def words(self, *words: str | Path) -> list[str]:
        return [*self._command, *map(str, words)]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(self.words(*words), capture_output=True, text=True, check=False, timeout=1700)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(process: None, tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    if shutil.which("buildah") is None:
        pytest.skip("needs buildah")
    return Buildah(tmp_path_factory.mktemp("buildah"))


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the image. Its base is what debootstrap makes, so no registry of images is asked."""
    folder = tmp_path_factory.mktemp("base")
    base_system(folder / "root", "ca-certificates")
    (folder / "trusted.crt").write_bytes(CERTIFICATES.read_bytes())
    (folder / "Containerfile").write_text(
        "FROM scratch\nCOPY root /\nCOPY trusted.crt /etc/ssl/trusted.crt\nENV PIP_CERT=/etc/ssl/trusted.crt\n"
    )
    buildah("build", "--isolation", "chroot", "--tag", "base:test", folder)
    arguments = ["--build-arg", "BASE=localhost/base:test"]
    buildah("build", "--isolation", "chroot", "--format", "docker", *arguments, "--tag", "neuron:test",
            "--file", ROOT / "Containerfile", ROOT)  # fmt: skip
    return buildah("from", "localhost/neuron:test")


@contextmanager
def running(buildah: Buildah, container: str, command: list[str]) -> Iterator[None]:
    """The container's own command, until a SIGTERM to the program itself."""
    with subprocess.Popen(buildah.words("run", "--isolation", "chroot", container, "--", *command)) as run:
        try:
            yield
        finally:
            programs = [each for each in psutil.Process(run.pid).children(recursive=True) if "serve" in each.cmdline()]
            programs[-1].send_signal(signal.SIGTERM) if programs else run.kill()
            status = run.wait(120)
    assert status == 0


@pytest.mark.packages
@pytest.mark.timeout(3600)  # llama.cpp is compiled for other machines
def test_a_container_serves_the_demo_without_root_says_that_it_is_well_and_ends_in_order(
    buildah: Buildah, container: str
) -> None:
    config: dict[str, Any] = json.loads(buildah("inspect", container))["Docker"]["config"]
    assert config["User"] == "999:999"
    assert config["Volumes"] == {"/var/cache/neuron": {}}
    assert config["StopSignal"] in {"SIGTERM", "15"}
    port = free_port()
    is_well = [word.replace("13131", str(port)) for word in config["Healthcheck"]["Test"][1:]]
    inside = ("run", "--isolation", "chroot", container, "--")
    assert subprocess.run(buildah.words(*inside, *is_well), capture_output=True, check=False).returncode != 0
    url = f"http://127.0.0.1:{port}"
    with running(buildah, container, [*config["Entrypoint"], *config["Cmd"], "--port", str(port)]):
        eventually(lambda: is_ready(url))
        buildah(*inside, *is_well)
        reply = httpx.post(f"{url}/v1/chat/completions", json=QUESTION, trust_env=False, timeout=120)
        assert reply.json()["choices"][0]["message"]["content"]
    assert "neuron" in buildah(*inside, "id", "--name", "--user")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
