"""The backends that this service offers: its own, and those of packages that are installed beside it.

A package offers a backend by an entry point of the group `neuron.harnesses` that leads to its `Backend`.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuron_lib.backend import Backend
from neuron_lib.errors import cause_chain
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.logs import get_logger
from neuron_lib.process.backend import PROCESS
from neuron_lib.remote.backend import REMOTE

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from neuron_lib.config import Config

__all__ = ("BACKENDS", "GROUP", "harness_tables", "names_group", "offered")

logger = get_logger(__name__)

GROUP: Final = "neuron.harnesses"
"""The group of the entry points."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def offered(
    plugins: "Iterable[EntryPoint]", *, own: tuple[Backend[Any], ...] = (LLAMACPP, PROCESS, REMOTE)
) -> tuple[Backend[Any], ...]:
    """The backends in `own`, and then those that `plugins` lead to, by the names of the entry points.

    An entry point that cannot be loaded, leads to something else, or to a backend with a name that is taken, is left
    out with a warning. So a broken package does not keep the service from starting. A configuration that names the
    backend is then refused by that name.
    """
    found = list(own)
    for plugin in sorted(plugins, key=lambda each: each.name):
        try:
            backend = plugin.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a package of somebody else may raise anything
            _leave_out(plugin, f"importing {plugin.value!r} raised {cause_chain(error)}")
            continue
        taken = {name for each in found for name in (each.name, *each.aliases)}
        if fault := _fault_of(backend):
            _leave_out(plugin, f"{plugin.value!r} {fault}")
        elif taken & {backend.name, *backend.aliases}:
            _leave_out(plugin, f"another backend has the name {backend.name!r} or one of its aliases")
        else:
            found.append(backend)
    return tuple(found)


def _fault_of(backend: object) -> str | None:
    """Why something is no backend that the configuration can have a table for; None if it is one."""
    if not isinstance(backend, Backend):
        return "is no `neuron_lib.backend.Backend`"
    said: Any = backend  # its types are promised, and nobody has checked them
    names: tuple[object, ...] = (said.name, *said.aliases)
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        return "has a name or an alias that is not made of letters, digits, `_` and `-`"
    if not (isinstance(said.struct, type) and issubclass(said.struct, Struct)):
        return "has a `struct` that is no msgspec Struct"
    try:
        said.struct()
    except Exception as error:  # noqa: BLE001 - a class of somebody else may raise anything
        return f"has a `struct` that cannot be made without a table in the file: {cause_chain(error)}"
    return None if callable(said.make) else "has a `make` that is no function"


def _leave_out(plugin: "EntryPoint", reason: str) -> None:
    package = "an unknown package" if plugin.dist is None else f"the package {plugin.dist.name!r}"
    logger.warning("backend %r of %s is left out: %s", plugin.name, package, reason)


def harness_tables(
    config: "Config", names: Sequence[str], backends: Sequence[Backend[Any]]
) -> list[tuple[Backend[Any], Any]]:
    """The backends of a host's harnesses, each with the table or the entry that its harness is made of.

    In the order of `names`, because a load that names no harness is for the first one that takes the model. A backend
    with one harness is left out if `names` lacks it.
    """
    found = {
        table.name if backend.has_many else backend.name: (backend, table)
        for backend in backends
        for table in (backend.entries(config) if backend.has_many else (backend.of(config),))
        if backend.has_many or backend.name in names
    }
    return [found[name] for name in sorted(found, key=lambda name: names.index(name) if name in names else len(names))]


def names_group(places: Iterable[str]) -> bool:
    """Whether a package in one of these folders has entry points of the group. What cannot be read has none."""
    for place in places:
        for file in Path(place).glob("*.*-info/entry_points.txt"):
            with suppress(OSError, ValueError):
                if f"[{GROUP}]" in file.read_text(encoding="utf-8"):
                    return True
    return False


def _installed() -> "Iterable[EntryPoint]":
    if not names_group(sys.path):
        return ()
    from importlib.metadata import entry_points  # noqa: PLC0415 - delays the first answer, and few hosts need it

    return entry_points(group=GROUP)


BACKENDS: Final = offered(_installed())
"""`neuron pull`, `ls` and `rm` work on the models of the first one that fetches models."""
