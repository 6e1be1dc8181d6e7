"""The manifests in `examples/kubernetes`: what Kubernetes says of them, and whether they say the same as neuron."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from neuron_lib.config import Config, load_config
from neuron_service.backends import BACKENDS
from neuron_service.cli.config_check import find_model_faults
from neuron_service.probes import PROBES
from neuron_service.server import _stop_limit_s
from tests.documents import ROOT
from tests.fakes.kustomized import Manifest, kustomized
from tests.patience import PATIENCE_S

EXAMPLES: Final = ROOT / "examples" / "kubernetes"
OVERLAYS: Final = ("cpu", "nvidia")
VERSIONS: Final = ("1.27", "1.31", "1.37")
"""Of Kubernetes. The schemas of the newest that the package has are taken for one that is newer."""
CONTAINERFILE: Final = (ROOT / "Containerfile").read_text()
OF_OPERATORS: Final = {"ServiceMonitor"}
"""Kinds whose schemas come with an operator."""


def manifests(overlay: str) -> list[Manifest]:
    return kustomized(EXAMPLES / "overlays" / overlay)


def one(overlay: str, kind: str, name: str = "neuron") -> Manifest:
    (found,) = [each for each in manifests(overlay) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(overlay: str) -> Manifest:
    found: Manifest = one(overlay, "StatefulSet")["spec"]["template"]["spec"]
    return found


def container(overlay: str) -> Manifest:
    (found,) = pod(overlay)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration that a pod gets."""
    file = tmp_path_factory.mktemp("config") / "neuron.toml"
    file.write_text(one("cpu", "ConfigMap", "neuron-config")["data"]["neuron.toml"])
    return load_config(file, {}, sections=BACKENDS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_key_and_every_value(overlay: str, version: str) -> None:
    for manifest in manifests(overlay):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_wrong_key_and_a_wrong_value_are_found() -> None:
    wrong_key, wrong_value = one("cpu", "StatefulSet"), one("cpu", "StatefulSet")
    wrong_key["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    wrong_value["spec"]["replicas"] = "2"
    for manifest in (wrong_key, wrong_value):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.system
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_makes_the_same_of_an_overlay(overlay: str) -> None:
    """Only the names of what is generated differ: those of kubectl end with a hash."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    command = ["kubectl", "kustomize", str(EXAMPLES / "overlays" / overlay)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
    plain = re.sub(r"\b(neuron-(?:config|keys))-[a-z0-9]{10}\b", r"\1", printed)
    assert in_order(list(yaml.safe_load_all(plain))) == in_order(manifests(overlay))


def in_order(found: list[Manifest]) -> list[Any]:
    """Secrets are compared without the line breaks that kubectl puts into them."""
    texts = (json.dumps(each, sort_keys=True) for each in found)
    return sorted(text.replace("\\n", "") if '"kind": "Secret"' in text else text for text in texts)


# ----------------------------------------------------------------------------------------- what neuron says of them


def test_the_configuration_can_work(config: Config) -> None:
    assert list(find_model_faults(config, {})) == []
    assert {model.model_id for model in config.default_models} == {model.id for model in config.models}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_probe_asks_a_path_that_is_there_on_the_port_of_the_service(overlay: str, config: Config) -> None:
    probed = container(overlay)
    ports = {port["name"]: port["containerPort"] for port in probed["ports"]}
    assert ports == {"http": config.port}
    for name in ("startupProbe", "livenessProbe"):
        assert (probed[name]["httpGet"]["path"], probed[name]["httpGet"]["port"]) == ("/healthz", "http")
    (url,) = re.findall(r"http://[^\"]+", probed["readinessProbe"]["exec"]["command"][-1])
    assert url == f"http://127.0.0.1:{config.port}/readyz"
    assert {"/healthz", "/readyz"} <= PROBES.keys()
    scrape = one(overlay, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]
    assert scrape["prometheus.io/port"] == str(config.port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_that_the_longest_stop_takes(overlay: str, config: Config) -> None:
    *_, before_s = container(overlay)["lifecycle"]["preStop"]["exec"]["command"]
    assert pod(overlay)["terminationGracePeriodSeconds"] >= int(before_s) + _stop_limit_s(config.drain_timeout_secs)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_is_the_user_of_the_image_and_writes_to_its_volumes_only(overlay: str) -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)[-1]
    rights = pod(overlay)["securityContext"]
    assert (rights["runAsUser"], rights["runAsGroup"], rights["runAsNonRoot"]) == (int(user), int(group), True)
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    own = container(overlay)["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    mounts = container(overlay)["volumeMounts"]
    (cache,) = re.findall(r"^VOLUME (\S+)$", CONTAINERFILE, re.MULTILINE)
    assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == {cache, "/tmp"}  # noqa: S108 - in the container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_variable_of_a_service_of_the_cluster_is_taken_for_a_key(overlay: str) -> None:
    """For a service `neuron` Kubernetes would set NEURON_PORT, which is the key `port`."""
    assert pod(overlay)["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_pod_names_is_there(overlay: str, config: Config) -> None:
    volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
    stateful = one(overlay, "StatefulSet")["spec"]
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container(overlay)["volumeMounts"]}
    assert mounts.keys() == volumes.keys() | claims
    file = one(overlay, "ConfigMap", volumes["config"]["configMap"]["name"])["data"]
    assert [f"{mounts['config']}/{name}" for name in file] == [container(overlay)["args"][-1]]
    secret = one(overlay, "Secret", volumes["keys"]["secret"]["secretName"])["data"]
    assert [Path(mounts["keys"]) / name for name in secret] == [config.keys_file]
    assert one(overlay, "Service", stateful["serviceName"])["spec"]["clusterIP"] == "None"
    assert one(overlay, "ServiceAccount", pod(overlay)["serviceAccountName"])
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == labels
    assert [each["spec"]["selector"] for each in manifests(overlay) if each["kind"] == "Service"] == [labels, labels]
    assert one(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_everybody_outside_of_a_pod_needs_a_key(config: Config) -> None:
    assert config.trusted_networks == ("loopback",)
    assert config.keys_file is not None


def test_the_monitor_looks_at_the_service_of_the_clients() -> None:
    monitor = yaml.safe_load((EXAMPLES / "options/service-monitor/service-monitor.yaml").read_text())
    service = one("cpu", "Service")
    assert monitor["kind"] in OF_OPERATORS
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")
    assert "labels" not in one("cpu", "Service", "neuron-pods")["metadata"]  # else each pod would be counted twice
