"""`python -m neuron_lib.llama.rpc_server`: lend the devices of this machine to llama.cpp on other hosts.

Starts the program `ggml-rpc-server`, which is built with llama.cpp and lies beside its libraries, with the options that
are given (`--host`, `--port`, `--device`, `--threads`, `--cache`; `--help` lists them). This process becomes that
program, so whoever watches this process watches it.
"""

import importlib.util
import os
import sys
from pathlib import Path

__all__ = ("main", "program")


def program() -> Path | None:
    """The server program of the installed llama.cpp. None if it was built without RPC."""
    package = importlib.util.find_spec("llama_cpp")  # which imports nothing
    folders = [] if package is None else package.submodule_search_locations or []
    return next((path for folder in folders if (path := Path(folder, "lib/ggml-rpc-server")).is_file()), None)


def main() -> None:
    """Become the server. Ends with status 69 if there is none."""
    found = program()
    if found is None:
        sys.stderr.write(
            "this llama.cpp was built without its RPC server: install llama-cpp-python again with `make install` or "
            "`make deploy` from a checkout of neuron\n"
        )
        sys.exit(os.EX_UNAVAILABLE)
    os.execv(found, [str(found), *sys.argv[1:]])  # noqa: S606 - a program of our own installation, without a shell


if __name__ == "__main__":
    main()
