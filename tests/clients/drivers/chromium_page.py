"""OpenAI's package for JavaScript in a page of Chromium. The page comes from a server of its own: another origin.

The page's server also takes the lines that `openai_npm.mjs` prints, and prints them. The arguments
are the folder with the page and the package, and Chromium's program.
"""

import os
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDED = threading.Event()
LIMIT_S = 600


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers["content-length"])).decode()
        print(line, flush=True, file=sys.stdout if line.startswith("{") else sys.stderr)
        self.send_response(204)
        self.end_headers()
        if not line.startswith("{"):
            ENDED.set()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing of requests."""


server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1]))
threading.Thread(target=server.serve_forever, daemon=True).start()
page = f"http://127.0.0.1:{server.server_port}/page.html?neuron={os.environ['NEURON_URL']}"
options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
options += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-default-apps"]
options += [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]
with tempfile.TemporaryDirectory() as profile:
    browser = subprocess.Popen(
        [sys.argv[2], *options, f"--user-data-dir={profile}", page],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ended = ENDED.wait(LIMIT_S)
    finally:
        browser.terminate()
        browser.wait(60)
sys.exit(0 if ended else "the page did not end")
