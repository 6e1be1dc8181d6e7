"""The page about Kubernetes: its commands, with programs of ours in the place of `docker` and `kubectl`."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from neuron_lib.config import load_config
from neuron_service.backends import BACKENDS
from tests.documents import ROOT, blocks
from tests.fakes.kustomized import kustomized
from tests.kubernetes.test_manifests import EXAMPLES, VERSIONS, manifests
from tests.patience import PATIENCE_S

PAGE: Final = "docs/how-to/kubernetes.md"
BUILD, KEYS, APPLY, SCRAPE = blocks(PAGE, "sh")
(OWN,) = blocks(PAGE, "yaml")


@pytest.fixture
def checkout(process: None, tmp_path: Path) -> Path:
    """A folder like the checkout, with programs that note how they are called."""
    shutil.copytree(EXAMPLES, tmp_path / "examples/kubernetes")
    programs = {
        "neuron": f'exec {sys.executable} -m neuron_service "$@"',
        **{name: f'echo {name} "$@" >> {tmp_path}/calls' for name in ("docker", "kubectl")},
    }
    (tmp_path / "bin").mkdir()
    for name, program in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    return tmp_path


def calls(script: str, checkout: Path) -> list[list[str]]:
    """Run a script of the page. Returns how it called `docker` and `kubectl`."""
    environ = os.environ | {"PATH": f"{checkout}/bin:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-ec", script], check=True, timeout=PATIENCE_S, cwd=checkout, env=environ)
    noted = checkout / "calls"
    return [line.split() for line in noted.read_text().splitlines()] if noted.exists() else []


def test_the_image_that_is_built_is_that_of_the_overlay(checkout: Path) -> None:
    build, push = calls(BUILD, checkout)
    assert (ROOT / build[build.index("--file") + 1]).exists()
    assert build[build.index("--tag") + 1] == push[-1]
    (stateful,) = [each for each in manifests("cpu") if each["kind"] == "StatefulSet"]
    assert [each["image"] for each in stateful["spec"]["template"]["spec"]["containers"]] == [push[-1]]


def test_the_keys_of_the_page_get_into_the_secret_and_the_configuration_is_valid(checkout: Path) -> None:
    assert calls(KEYS, checkout) == []
    base = checkout / "examples/kubernetes/base"
    names = [line.split()[0] for line in (base / "keys").read_text().splitlines() if not line.startswith("#")]
    assert names == ["laptop", "gateway", "prometheus"]
    assert all((base.parent / f"{name}.key").read_text().strip() for name in names)


def test_the_page_names_the_versions_of_the_schemas() -> None:
    assert "{}, {} and {}".format(*VERSIONS) in (ROOT / PAGE).read_text()


def test_what_is_applied_is_there(checkout: Path) -> None:
    shown, applied, *others = calls(APPLY, checkout)
    for command in (shown, applied):
        assert (EXAMPLES / command[-1] / "kustomization.yaml").exists()
    found = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in manifests("cpu")}
    named = {word for command in others for word in command if "/" in word}
    assert named == {"statefulset/neuron", "service/neuron"} & found


def test_the_secret_of_the_monitor_is_the_one_that_the_page_makes(checkout: Path) -> None:
    (made,) = calls(SCRAPE, checkout)
    monitor = yaml.safe_load((EXAMPLES / "options/service-monitor/service-monitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials == {"name": made[-2], "key": made[-1].split("=")[1]}


def test_an_overlay_of_ones_own_replaces_the_configuration_and_adds_the_monitor(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "kubernetes")
    own = tmp_path / "kubernetes/overlays/mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(OWN)
    text = (EXAMPLES / "base/neuron.toml").read_text()
    kept = re.findall(r"^(?:host|trusted_networks|keys_file) = .*$", text, re.MULTILINE)
    (own / "neuron.toml").write_text("\n".join(kept))
    load_config(own / "neuron.toml", {}, sections=BACKENDS)
    found = {each["kind"]: each for each in kustomized(own) if each["kind"] in {"ConfigMap", "ServiceMonitor"}}
    assert found["ConfigMap"]["data"]["neuron.toml"] == "\n".join(kept)
    assert found["ServiceMonitor"]["metadata"]["namespace"] == "neuron"


@pytest.mark.system
def test_kubectl_makes_the_same_of_the_overlay_of_ones_own(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    shutil.copytree(EXAMPLES, tmp_path / "kubernetes")
    own = tmp_path / "kubernetes/overlays/mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(OWN)
    (own / "neuron.toml").write_text("# mine\n")
    command = ["kubectl", "kustomize", str(own)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
    kinds = sorted(each["kind"] for each in yaml.safe_load_all(printed))
    assert kinds == sorted(each["kind"] for each in kustomized(own))
    assert "# mine" in printed
