import subprocess
import venv
import zipfile
from pathlib import Path

import pip
import pytest

from scripts.install_runtime import (
    ProgressLine,
    built_fraction,
    compiler_environment,
    has_rpc,
    locked_block,
    wheel_options,
)

ROOT = Path(__file__).parents[2]

LOCK = """\
anyio==4.10.0 \\
    --hash=sha256:aa
    # via neuron-node
llama-cpp-python==0.3.36 \\
    --hash=sha256:bb
    # via neuron-node
llguidance==1.9.1 \\
    --hash=sha256:cc
"""


def test_the_block_of_a_package_is_its_version_with_its_hashes() -> None:
    assert locked_block("anyio", LOCK) == "anyio==4.10.0 \\\n    --hash=sha256:aa\n    # via neuron-node\n"
    assert locked_block("llguidance", LOCK) == "llguidance==1.9.1 \\\n    --hash=sha256:cc\n"
    with pytest.raises(ValueError, match="no llama"):
        locked_block("llama", LOCK)


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("  [1/4] ccache g++ -c x.cpp", 0.25),
        ("[ 31%] Building CXX object x.o", 0.31),
        ("[notice] a new release of pip", None),
        ("  [0/0] nothing", 0.0),
        ("Building wheels for collected packages", None),
    ],
)
def test_the_lines_of_ninja_and_make_say_how_much_is_built(line: str, fraction: float | None) -> None:
    assert built_fraction(line) == fraction


def test_a_terminal_sees_each_percent_once_and_a_log_each_tenth() -> None:
    terminal, log = ProgressLine(is_terminal=True), ProgressLine(is_terminal=False)
    fractions = [n / 200 for n in range(201)]
    assert sum(terminal.text(each, 1) is not None for each in fractions) == 101
    assert sum(log.text(each, 1) is not None for each in fractions) == 11


def test_the_time_that_is_left_follows_from_what_is_built() -> None:
    assert ProgressLine(is_terminal=False).text(0.25, 60) == "compiling llama.cpp  25 %, about 3 min left"
    assert ProgressLine(is_terminal=False).text(0.5, 60) == "compiling llama.cpp  50 %, about 60 s left"
    assert ProgressLine(is_terminal=False).text(0.01, 60) == "compiling llama.cpp  1 %"
    assert ProgressLine(is_terminal=False).text(1, 60) == "compiling llama.cpp  100 %"


def test_ccache_is_used_where_it_is_and_what_the_environment_says_stays() -> None:
    without = compiler_environment({"A": "1"}, "-DGGML_CUDA=ON", ccache=None)
    assert "LAUNCHER" not in without["CMAKE_ARGS"]
    assert without["CMAKE_ARGS"].endswith(" -DGGML_CUDA=ON")
    assert without["A"] == "1"
    environ = {"CCACHE_BASEDIR": "/here", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    using = compiler_environment(environ, "", ccache="/usr/bin/ccache")
    assert "-DCMAKE_CXX_COMPILER_LAUNCHER='/usr/bin/ccache'" in using["CMAKE_ARGS"]
    assert {name: using[name] for name in environ} == environ


def test_rpc_is_built_in_unless_the_options_say_otherwise(tmp_path: Path) -> None:
    words = compiler_environment({}, "-DGGML_RPC=OFF", ccache=None)["CMAKE_ARGS"].split()
    assert words.index("-DGGML_RPC=ON") < words.index("-DGGML_RPC=OFF")  # CMake takes the last one
    assert not has_rpc(tmp_path)
    libraries = tmp_path / "llama_cpp/lib"
    libraries.mkdir(parents=True)
    (libraries / "libggml-rpc.so").touch()  # as `CMAKE_ARGS=-DGGML_RPC=ON pip install` builds it
    assert not has_rpc(tmp_path)
    (libraries / "ggml-rpc-server").touch()
    assert has_rpc(tmp_path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/srv/wheels", ["--no-index", "--find-links", "/srv/wheels"]),
        ("https://wheels.example/cu124", ["--index-url", "https://wheels.example/cu124"]),
    ],
)
def test_wheels_that_somebody_else_built_come_from_a_folder_or_an_index_and_have_the_locked_version(
    place: str, words: list[str]
) -> None:
    options = wheel_options(place, locked_block("llama-cpp-python", LOCK))
    assert options[-1] == "llama-cpp-python==0.3.36"
    assert options[-1 - len(words) : -1] == words
    assert "--only-binary" in options


@pytest.fixture(scope="module")
def environment(process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty environment that borrows pip."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = home / "bin/python"
    find = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip())
    (own / "borrowed.pth").write_text(f"{Path(pip.__file__).parents[1]}\n{ROOT}\n")
    return python


def install_wheel(python: Path, place: Path) -> subprocess.CompletedProcess[str]:
    block = locked_block("llama-cpp-python", LOCK)
    call = f"install_runtime._install_wheel({str(place)!r}, {block!r})"
    program = f"import sys; from scripts import install_runtime; sys.exit({call})"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)


def test_a_wheel_that_somebody_else_built_is_installed_without_compiling(environment: Path, tmp_path: Path) -> None:
    about = "llama_cpp_python-0.3.36.dist-info"
    with zipfile.ZipFile(tmp_path / "llama_cpp_python-0.3.36-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llama_cpp/__init__.py", "FROM = 'somebody else'")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    assert install_wheel(environment, tmp_path).returncode == 0
    ask = [str(environment), "-c", "import llama_cpp; print(llama_cpp.FROM)"]
    assert subprocess.run(ask, check=True, capture_output=True, text=True).stdout == "somebody else\n"


def test_a_folder_without_a_fitting_wheel_is_refused_with_the_next_step(environment: Path, tmp_path: Path) -> None:
    done = install_wheel(environment, tmp_path)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{tmp_path} gave no wheel of llama-cpp-python==0.3.36 ")
    assert last.endswith("leave it out to compile llama.cpp here")
