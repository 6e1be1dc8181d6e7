import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from types import FunctionType, ModuleType

import pytest

import neuron_lib

PROGRAMS = {"neuron_lib.engine.__main__"}
MODULE_NAMES = sorted(
    {"neuron_lib"} | {found.name for found in pkgutil.walk_packages(neuron_lib.__path__, "neuron_lib.")} - PROGRAMS
)


@pytest.fixture(scope="module")
def modules() -> Sequence[ModuleType]:
    return tuple(map(importlib.import_module, MODULE_NAMES))


def names_of(module: ModuleType) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(module, "__all__", ())
    return names


def is_documentable(value: object) -> bool:
    return isinstance(value, type | FunctionType)


def has_docstring(name: str, value: object) -> bool:
    # msgspec writes a signature where a class has no docstring of its own.
    return not is_documentable(value) or not (inspect.getdoc(value) or f"{name}(").startswith(f"{name}(")


def test_every_module_says_what_it_owns(modules: Sequence[ModuleType]) -> None:
    assert [module.__name__ for module in modules if not module.__doc__] == []


def test_what_a_module_offers_is_a_tuple_of_names_that_exist(modules: Sequence[ModuleType]) -> None:
    assert [module.__name__ for module in modules if not isinstance(names_of(module), tuple)] == []
    missing = [
        f"{module.__name__}.{name}" for module in modules for name in names_of(module) if not hasattr(module, name)
    ]
    assert missing == []


def test_whatever_a_module_defines_is_offered_or_marked_private(modules: Sequence[ModuleType]) -> None:
    undecided = [
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if is_documentable(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if name not in names_of(module)
    ]
    assert undecided == []


def test_everything_offered_is_documented(modules: Sequence[ModuleType]) -> None:
    silent = [
        f"{module.__name__}.{name}"
        for module in modules
        for name in names_of(module)
        if not has_docstring(name, getattr(module, name))
    ]
    assert silent == []


def test_public_methods_of_what_the_package_offers_are_documented() -> None:
    protocols = {"Generation", "Harness", "LoadedModel"}
    silent = {
        f"{name}.{attribute}"
        for name in sorted(set(neuron_lib.__all__))
        if isinstance(offered := getattr(neuron_lib, name), type) and name not in protocols
        for attribute, value in vars(offered).items()
        if isinstance(value, FunctionType | property) and not attribute.startswith("_") and not inspect.getdoc(value)
    }
    assert silent == set()


@pytest.mark.process
@pytest.mark.parametrize("name", ["neuron_lib", "neuron_lib.testing", "neuron_lib.llamacpp", "neuron_lib.config"])
def test_importing_a_module_loads_no_backend_no_hub_and_no_web_framework(name: str) -> None:
    heavy = {"llama_cpp", "litestar", "uvicorn", "huggingface_hub", "jinja2", "numpy"}
    program = f"import sys, {name}; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
