import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import FunctionType, ModuleType

import pytest

import neuron_lib

PROGRAMS = {"neuron_lib.engine.__main__"}
MODULE_NAMES = sorted(
    {"neuron_lib"} | {found.name for found in pkgutil.walk_packages(neuron_lib.__path__, "neuron_lib.")} - PROGRAMS
)


@pytest.fixture(params=MODULE_NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def is_documentable(value: object) -> bool:
    return isinstance(value, type | FunctionType)


def constants_then_classes_then_the_rest(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), not name[0].isupper(), name


def test_every_module_says_what_it_owns(module: ModuleType) -> None:
    assert module.__doc__


def test_what_a_module_offers_is_a_sorted_tuple_of_names_that_exist(module: ModuleType) -> None:
    names = getattr(module, "__all__", ())
    assert isinstance(names, tuple)
    assert names == tuple(sorted(set(names), key=constants_then_classes_then_the_rest))
    assert [name for name in names if not hasattr(module, name)] == []


def test_whatever_a_module_defines_is_offered_or_marked_private(module: ModuleType) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if is_documentable(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert defined <= set(getattr(module, "__all__", ()))


def test_everything_offered_is_documented(module: ModuleType) -> None:
    offered = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    silent = {name for name, value in offered.items() if is_documentable(value) and not inspect.getdoc(value)}
    # msgspec writes a signature where a class has no docstring of its own.
    silent |= {name for name, value in offered.items() if str(getattr(value, "__doc__", "")).startswith(f"{name}(")}
    assert silent == set()


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
