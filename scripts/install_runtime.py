"""`python scripts/install_runtime.py`: install the locked packages, and show how far the compiling of llama.cpp is.

`make` runs it with the Python of the environment that is to be filled. It needs the standard library alone. Of all
packages only llama-cpp-python is compiled. `--llama-wheels` names a folder or an index with wheels of it, made for
example for CUDA; then nothing is compiled.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = (
    "ProgressLine",
    "built_fraction",
    "compile_llama",
    "compiler_environment",
    "has_rpc",
    "locked_block",
    "wheel_options",
)

_ROOT: Final = Path(__file__).parents[1]
_LOCKS: Final = (_ROOT / "requirements/build.txt", _ROOT / "requirements/runtime.txt")
_PACKAGE: Final = "llama-cpp-python"
_CPU_MINUTES: Final = 4
"""Processor time that one compilation takes, with the options of `compiler_environment`."""
_LOG_NAME: Final = "llama.cpp-build.log"
_SHOWN_LINES: Final = 30

_PIP: Final = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")


def main() -> int:
    """Install. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Install the locked packages.")
    parser.add_argument("--cmake-args", default="", help="more options for the build of llama.cpp")
    parser.add_argument("--llama-wheels", default="", help="a folder or an index that has wheels of llama-cpp-python")
    options = parser.parse_args()
    block = locked_block(_PACKAGE, _LOCKS[-1].read_text(encoding="utf-8"))
    if options.llama_wheels:
        status = _install_wheel(options.llama_wheels, block)
    else:
        status = _compile(options.cmake_args, block)
    if status == 0:
        files = [word for lock in _LOCKS for word in ("-r", str(lock))]
        status = _run([*_PIP, "--quiet", "--require-hashes", *files])
    return status


# ----------------------------------------------------------------------------------------------------- decisions


def locked_block(name: str, lock: str) -> str:
    """The lines of a lock that belong to one package: the pinned version and the hashes."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the lock has no {name}")
    return found[0]


def wheel_options(place: str, block: str) -> list[str]:
    """The options of pip for a wheel from `place`, in the version of the lock.

    The hashes of the lock are those of the source, and cannot be those of a wheel that somebody else has built.
    """
    pinned = block.split(maxsplit=1)[0]
    where = ["--index-url", place] if "://" in place else ["--no-index", "--find-links", place]
    return ["--no-deps", "--force-reinstall", "--only-binary", _PACKAGE, *where, pinned]


def compiler_environment(environ: Mapping[str, str], cmake_args: str, *, ccache: str | None) -> dict[str, str]:
    """The variables of a build: libllama and the server of its RPC, on all cores, and through ccache if `ccache` is the
    path of it.
    """
    words = ["-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_INCLUDE='{_ROOT / 'scripts/libllama_only.cmake'}'"]
    # The transport RDMA would be built in wherever its library is found, and the result would start nowhere else.
    words += ["-DGGML_RPC=ON", "-DGGML_RPC_RDMA=OFF"]
    added: dict[str, str] = {}
    if ccache is not None:
        words += [f"-DCMAKE_{language}_COMPILER_LAUNCHER='{ccache}'" for language in ("C", "CXX")]
        # pip builds in a folder with another name each time. ccache forgets that name, except for the few files into
        # which CMake writes it.
        added = {"CCACHE_BASEDIR": tempfile.gettempdir(), "CCACHE_NOHASHDIR": "1", "SKBUILD_BUILD_DIR": "build"}
    cores = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    return {**cores, **added, **environ, "CMAKE_ARGS": " ".join([*words, cmake_args]).strip()}


def has_rpc(packages: Path) -> bool:
    """Whether the llama.cpp in a folder of packages has the server of its RPC, as `compiler_environment` asks for it.

    One that pip has built by itself has none, and may be in pip's cache.
    """
    return (packages / "llama_cpp/lib/ggml-rpc-server").exists()


def built_fraction(line: str) -> float | None:
    """How much is built, if a line of the build says so: ninja's "[26/83] …" and make's "[ 31%] …"."""
    if found := re.match(r"\s*\[(\d+)/(\d+)\]", line):
        return int(found[1]) / max(1, int(found[2]))
    if found := re.match(r"\s*\[\s*(\d+)%\]", line):
        return int(found[1]) / 100
    return None


@dataclass(slots=True)
class ProgressLine:
    """Words for a build that has come to a fraction: on a terminal whenever it moves, elsewhere at each tenth."""

    is_terminal: bool
    _shown: int = -1

    def text(self, fraction: float, elapsed_s: float) -> str | None:
        """What is to be shown now. None if nothing is."""
        percent = int(fraction * 100)
        step = percent if self.is_terminal else percent // 10
        if step <= self._shown:
            return None
        self._shown = step
        filled = int(fraction * 30)
        bar = f"{'█' * filled}{'░' * (30 - filled)}  " if self.is_terminal else ""
        return f"compiling llama.cpp  {bar}{percent} %{_left(fraction, elapsed_s)}"


def _left(fraction: float, elapsed_s: float) -> str:
    """The time that is left, if it can be said."""
    if not 0.05 <= fraction < 1:
        return ""
    seconds = elapsed_s / fraction - elapsed_s
    return f", about {round(seconds / 60)} min left" if seconds >= 90 else f", about {round(seconds)} s left"


# ------------------------------------------------------------------------------------------------------- actions


def _install_wheel(place: str, block: str) -> int:
    status = _run([*_PIP, "--quiet", *wheel_options(place, block)])
    if status != 0:
        wheel = block.split(maxsplit=1)[0]
        _say(
            f"{place} gave no wheel of {wheel} for this Python and this machine; name another place as LLAMA_WHEELS, "
            "or leave it out to compile llama.cpp here"
        )
    return status


def _compile(cmake_args: str, block: str) -> int:
    # pip's cache of wheels that it has built does not look at CMAKE_ARGS, so other options have to go past it.
    anew = ["--no-cache-dir", "--force-reinstall"] if cmake_args else []
    log = Path(sys.prefix, _LOG_NAME)
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(block, encoding="utf-8")
        command = [*_PIP, "--verbose", "--require-hashes", "--no-deps", *anew, "-r", str(requirement)]
        status = compile_llama(command, cmake_args, log)
        if status == 0 and not cmake_args and not has_rpc(Path(sysconfig.get_path("platlib"))):
            # An older version of this program has installed it, or put it into the cache: the options were others then.
            _run([*_PIP[:3], "cache", "remove", block.split(maxsplit=1)[0].replace("==", "-").replace("-", "_", 2)])
            command.insert(len(_PIP), "--force-reinstall")
            status = compile_llama(command, cmake_args, log)
    return status


def compile_llama(command: Sequence[str], cmake_args: str, log: Path) -> int:
    """Run a verbose `command` of pip that compiles llama.cpp, and show how far it is, or its last lines if it fails.

    Returns the exit status. All that pip says is in `log`.
    """
    ccache = shutil.which("ccache")
    environ = compiler_environment(os.environ, cmake_args, ccache=ccache)
    status = _watch(command, environ, log, with_ccache=ccache is not None)
    if status != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*lines[-_SHOWN_LINES:], sep="\n", file=sys.stderr)
        _say(f"{_PACKAGE} could not be built; the last lines are above, and all of them are in {log}")
    return status


def _watch(command: Sequence[str], environ: Mapping[str, str], log: Path, *, with_ccache: bool) -> int:
    """Run pip, write what it says into `log`, and show how far the build is. Returns the exit status."""
    is_terminal = sys.stderr.isatty()
    progress = ProgressLine(is_terminal)
    began: float | None = None
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(  # noqa: S603 - fixed words and own options
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in _lines(pip.stdout, pip):
            written.write(line)
            fraction = built_fraction(line)
            if fraction is None:
                continue
            if began is None:
                began = time.monotonic()
                _announce(with_ccache=with_ccache)
            text = progress.text(fraction, time.monotonic() - began)
            if text is not None:
                print(f"\r{text}\033[K" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr)
                sys.stderr.flush()
    if began is not None and is_terminal:
        print(file=sys.stderr)
    return pip.returncode


def _lines(stream: Iterator[str], pip: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines of a running pip, which is ended if the person gives up."""
    try:
        yield from stream
    except KeyboardInterrupt:
        pip.terminate()
        raise


def _announce(*, with_ccache: bool) -> None:
    cores = os.cpu_count() or 1
    minutes = max(1, round(_CPU_MINUTES / cores))
    how = "with ccache" if with_ccache else "once; with ccache installed, the next time would take a third of it"
    _say(f"llama.cpp is compiled {how}: about {_CPU_MINUTES} minutes of processor time, so {minutes} on {cores} cores")


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode  # noqa: S603 - fixed words and own options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
