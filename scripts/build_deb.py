"""`python -m scripts.build_deb`: the Debian package of neuron, in dist/.

The package holds an environment of Python's own in /usr/lib/neuron, with the locked packages, because Debian has most
of them in other versions or not at all. `dpkg-deb` packs it. debhelper and dh-virtualenv would do the same with more
parts, and dh-virtualenv is not in every release of Debian. llama.cpp is built for every processor with AVX2, not for
the one that builds. The package fits the release of Debian on which it is built: its Python and its C library.
"""

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class
from click_man.core import write_man_pages

import neuron_lib
from neuron_service.cli.options import COMPLETION_VARIABLE
from neuron_service.cli.program import ROOT as COMMANDS
from scripts.install_runtime import compile_llama, compiler_environment, locked_block, wheel_options

__all__ = ("build", "control", "debian_version", "maintainer_scripts", "name_of_build", "portable_wheel")

_ROOT: Final = Path(__file__).parents[1]
_CMAKE_PART: Final = _ROOT / "scripts/libllama_only.cmake"
_HOME: Final = "usr/lib/neuron"
_PACKAGE: Final = "neuron-node"
_CONFIGURATION: Final = "etc/neuron/neuron.toml"
_PYTHON: Final = Path("/usr/bin/python3")
_HOST_FILES: Final = {
    "neuron.service": "usr/lib/systemd/system/neuron.service",
    "neuron.socket": "usr/lib/systemd/system/neuron.socket",
    "neuron.sysusers": "usr/lib/sysusers.d/neuron.conf",
    "neuron.tmpfiles": "usr/lib/tmpfiles.d/neuron.conf",
}
_COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/neuron",
    "zsh": "usr/share/zsh/vendor-completions/_neuron",
    "fish": "usr/share/fish/vendor_completions.d/neuron.fish",
}
_COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: neuron
Comment: The Python packages in /usr/lib/neuron have their own licenses, in the folder *.dist-info of each.

Files: *
Copyright: the authors of neuron
License: Apache-2.0
 On Debian systems the text of the license is in /usr/share/common-licenses/Apache-2.0.
"""


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(description="Build the Debian package of neuron.")
    parser.add_argument("--out", type=Path, default=_ROOT / "dist", help="the folder for the package")
    parser.add_argument("--cmake-args", default="", help="more options for the build of llama.cpp")
    parser.add_argument("--llama-wheels", default="", help="a folder or an index that has wheels of llama-cpp-python")
    options = parser.parse_args()
    if missing := [tool for tool in ("dpkg-deb", _PYTHON) if shutil.which(tool) is None]:
        sys.exit(f"a Debian package is built on Debian or a relative; missing here: {', '.join(map(str, missing))}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(build(options.out, cmake_args=options.cmake_args, llama_wheels=options.llama_wheels))


def build(out: Path, *, cmake_args: str = "", llama_wheels: str = "") -> Path:
    """Build the package into `out`. Returns its path."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        _make_environment(tree, llama_wheels or portable_wheel(cmake_args))
        _add_host_files(tree)
        _add_documents(tree)
        size_kib = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
        _add_control(tree, size_kib)
        package = out / f"{_PACKAGE}_{debian_version(neuron_lib.__version__)}_{_architecture()}.deb"
        _run("dpkg-deb", "--build", "--root-owner-group", "-Zzstd", "-z9", tree, package)
    return package


# ----------------------------------------------------------------------------------------------------- decisions


def debian_version(version: str) -> str:
    """The version for dpkg, which sorts `0.1.0~dev0` before `0.1.0`."""
    number, dev, rest = version.partition(".dev")
    return f"{number}~dev{rest}" if dev else number


def name_of_build(block: str, cmake_args: str, cmake_part: str) -> str:
    """A name for a compiled llama.cpp, which is another one if anything is that it is made of: the `block` of the lock,
    the options and our part of its CMake files.
    """
    made_of = f"{block}\0{cmake_args}\0{cmake_part}"
    return f"{block.split(maxsplit=1)[0].partition('==')[2]}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def control(*, version: str, architecture: str, python: str, libc: str, size_kib: int) -> str:
    """The file `control`. `python` is a version such as 3.11; `libc` is that of the system that builds."""
    major, minor = python.split(".")
    depends = [
        # Not python3.11 and the like: /usr/bin/python3, to which the environment leads, is in python3.
        f"python3 (>= {python}~)",
        f"python3 (<< {major}.{int(minor) + 1}~)",
        f"libc6 (>= {libc})",
        "libgomp1",
        "libstdc++6",
        "systemd | systemd-standalone-sysusers",
        "systemd | systemd-standalone-tmpfiles",
    ]
    return f"""\
Package: {_PACKAGE}
Version: {version}
Architecture: {architecture}
Maintainer: the authors of neuron <neuron@localhost>
Installed-Size: {size_kib}
Depends: {", ".join(depends)}
Section: net
Priority: optional
Description: service for local language models, built on llama.cpp
 An HTTP service with the chat completions of OpenAI, continuous batching, and a
 process of its own for every model. Needs a processor with AVX2.
"""


def maintainer_scripts() -> dict[str, str]:
    """What dpkg runs. The service is not started by the installation, because its configuration names no model yet."""
    running = "[ -d /run/systemd/system ]"
    return {
        "postinst": f"""\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    systemd-sysusers neuron.conf
    # It fails where /proc is missing, as in images that are being built. At boot it runs again.
    systemd-tmpfiles --create neuron.conf || true
    if {running}; then
        systemctl daemon-reload
        if [ -n "$2" ]; then systemctl try-restart neuron.service; fi
    fi
    if [ -z "$2" ]; then
        echo "neuron: name your models in /{_CONFIGURATION}, then: systemctl enable --now neuron"
    fi
fi
""",
        "prerm": f"""\
#!/bin/sh
set -e
if [ "$1" = remove ] && {running}; then
    systemctl disable --now neuron.socket neuron.service
fi
""",
        "postrm": f"""\
#!/bin/sh
set -e
if {running}; then systemctl daemon-reload; fi
if [ "$1" = purge ]; then
    rm -rf /etc/neuron /var/lib/neuron /var/cache/neuron
fi
""",
    }


# ------------------------------------------------------------------------------------------------------- actions


def portable_wheel(cmake_args: str = "") -> str:
    """A folder with a wheel of llama.cpp for other machines. It is kept, so that the next package compiles nothing."""
    options = f"-DGGML_NATIVE=OFF {cmake_args}".strip()
    all_options = compiler_environment({}, options, ccache=None)["CMAKE_ARGS"]
    place = _ROOT / "build/llama-wheels" / name_of_build(_llama(), all_options, _CMAKE_PART.read_text("utf-8"))
    if not list(place.glob("*.whl")):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            requirement = Path(folder, "requirement.txt")
            requirement.write_text(_llama(), encoding="utf-8")
            command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-cache-dir", "--no-deps",
                       "--require-hashes", "--wheel-dir", str(place), "-r", str(requirement)]  # fmt: skip
            if status := compile_llama(command, options, place / "build.log"):
                raise subprocess.CalledProcessError(status, command)
    return str(place)


def _llama() -> str:
    return locked_block("llama-cpp-python", (_ROOT / "requirements/runtime.txt").read_text(encoding="utf-8"))


def _make_environment(tree: Path, llama_wheels: str) -> None:
    home = tree / _HOME
    home.parent.mkdir(parents=True)
    _run(_PYTHON, "-m", "venv", "--without-pip", "--symlinks", home)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin/python3", "install", "--quiet", "--no-input",
           "--no-compile", "--disable-pip-version-check")  # fmt: skip
    _run(*pip, *wheel_options(llama_wheels, _llama()))
    _run(*pip, "--require-hashes", "-r", _ROOT / "requirements/runtime.txt")
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, _ROOT)
        _run(*pip, "--no-deps", "--no-index", *Path(folder).glob("*.whl"))
    _make_it_at_home(tree, home)


def _make_it_at_home(tree: Path, home: Path) -> None:
    """Take out the path at which the environment was made, and what nobody runs there."""
    for program in (home / "bin").iterdir():
        if not program.name.startswith("python") and program.name != "neuron":
            program.unlink()
    for note in home.rglob("direct_url.json"):
        note.unlink()
    neuron = home / "bin/neuron"
    _, _, rest = neuron.read_text(encoding="utf-8").partition("\n")
    neuron.write_text(f"#!/{_HOME}/bin/python3\n{rest}", encoding="utf-8")
    settings = home / "pyvenv.cfg"
    lines = settings.read_text(encoding="utf-8").splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("command")), encoding="utf-8")
    # The service may not write there, so the compiled files are in the package.
    _run(home / "bin/python3", "-m", "compileall", "-q", "-s", tree, "-p", "/", home / "lib")
    link = tree / "usr/bin/neuron"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../{_HOME}/bin/neuron")


def _add_host_files(tree: Path) -> None:
    source = _ROOT / "neuron_service/host_files"
    for name, place in _HOST_FILES.items():
        _write(tree / place, (source / name).read_text(encoding="utf-8"))
    _write(tree / _CONFIGURATION, (source / "neuron.example.toml").read_text(encoding="utf-8"), mode=0o640)


def _add_documents(tree: Path) -> None:
    pages = tree / "usr/share/man/man1"
    pages.mkdir(parents=True)
    write_man_pages("neuron", _imported(COMMANDS), version=neuron_lib.__version__, target_dir=str(pages))
    for page in list(pages.iterdir()):
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()
    for shell, place in _COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        _write(tree / place, kind(COMMANDS, {}, "neuron", COMPLETION_VARIABLE).source())
    _write(tree / f"usr/share/doc/{_PACKAGE}/copyright", _COPYRIGHT)


def _imported(command: click.Command) -> click.Command:
    """The command with all commands below it, which click-man does not ask for as click does."""
    if not isinstance(command, click.Group):
        return command
    context = click.Context(command)
    below = {name: command.get_command(context, name) for name in command.list_commands(context)}
    commands = {name: _imported(each) for name, each in below.items() if each is not None}
    return click.Group(command.name, commands=commands, params=command.params, help=command.help, epilog=command.epilog)


def _add_control(tree: Path, size_kib: int) -> None:
    version = _answer(_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    text = control(
        version=debian_version(neuron_lib.__version__),
        architecture=_architecture(),
        python=version,
        libc=platform.libc_ver()[1],
        size_kib=size_kib,
    )
    _write(tree / "DEBIAN/control", text)
    _write(tree / "DEBIAN/conffiles", f"/{_CONFIGURATION}\n")
    for name, script in maintainer_scripts().items():
        _write(tree / "DEBIAN" / name, script, mode=0o755)


def _architecture() -> str:
    return _answer("dpkg", "--print-architecture")


def _answer(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - our words


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _run(*command: str | Path, environ: dict[str, str] | None = None) -> None:
    words: Sequence[str] = [str(word) for word in command]
    clean = {name: value for name, value in (environ or os.environ).items() if name != "PYTHONPATH"}
    subprocess.run(words, check=True, env=clean, stdout=sys.stderr)  # noqa: S603 - fixed words and paths of the project


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(error.cmd)}` failed with status {error.returncode}; its output is above")
    except click.ClickException as error:
        sys.exit(error.format_message())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
