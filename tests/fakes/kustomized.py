"""What `kubectl kustomize` makes of a folder, for the few features that our manifests use. `kubectl` is not needed.

Resources, components, generators (without the hashes in their names), images, a namespace, and patches that are merged
by the names in their lists. A key of a kustomization that is not known here is an error.
"""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

__all__ = ("Manifest", "kustomized")

Manifest: TypeAlias = dict[str, Any]

_CLUSTER_WIDE: Final = {"Namespace"}
_KEYS: Final = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "configMapGenerator",
    "secretGenerator",
    "images",
    "patches",
}


def kustomized(folder: Path) -> list[Manifest]:
    """The manifests of the kustomization in `folder`."""
    return _applied(folder, [])


def _applied(folder: Path, given: list[Manifest]) -> list[Manifest]:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert plan.keys() <= _KEYS, plan.keys() - _KEYS
    found = [*given, *(manifest for name in plan.get("resources", ()) for manifest in _resource(folder / name))]
    for kind in ("ConfigMap", "Secret"):
        for generator in plan.get(f"{kind[0].lower()}{kind[1:]}Generator", ()):
            found = _with_generated(found, kind, generator, folder)
    for name in plan.get("components", ()):
        found = _applied(folder / name, found)
    for patch in plan.get("patches", ()):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        (target,) = [manifest for manifest in found if _identity(manifest) == _identity(change)]
        found[found.index(target)] = _merged(target, change)
    _name_images(found, plan.get("images", ()))
    if namespace := plan.get("namespace"):
        for manifest in found:
            if manifest["kind"] not in _CLUSTER_WIDE:
                manifest["metadata"]["namespace"] = namespace
    return found


def _resource(path: Path) -> Iterator[Manifest]:
    yield from kustomized(path) if path.is_dir() else yaml.safe_load_all(path.read_text())


def _with_generated(found: list[Manifest], kind: str, generator: Manifest, folder: Path) -> list[Manifest]:
    """`found` with a `ConfigMap` or `Secret` of files, in the place of an earlier one if that is asked for."""
    files = {Path(name).name: (folder / name).read_bytes() for name in generator["files"]}
    made: Manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}}
    if kind == "Secret":
        made |= {"type": "Opaque", "data": {name: base64.b64encode(data).decode() for name, data in files.items()}}
    else:
        made |= {"data": {name: data.decode() for name, data in files.items()}}
    others = [manifest for manifest in found if _identity(manifest) != _identity(made)]
    assert (len(others) < len(found)) == (generator.get("behavior") == "replace"), generator
    for manifest in found:
        if manifest not in others and "namespace" in manifest["metadata"]:
            made["metadata"]["namespace"] = manifest["metadata"]["namespace"]
    return [*others, made]


def _name_images(found: Iterable[Manifest], images: Iterable[Manifest]) -> None:
    for image in images:
        for container in (each for manifest in found for each in _containers(manifest)):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _containers(manifest: Manifest) -> list[Manifest]:
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    containers: list[Manifest] = pod.get("containers", [])
    return containers


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old[key], value) if key in old else value for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and all("name" in item for item in [*old, *new]):
        changes = {item["name"]: item for item in new}
        merged = [_merged(item, changes.pop(item["name"], {})) for item in old]
        return [*changes.values(), *merged]
    return new
