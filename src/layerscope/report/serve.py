"""A page on a run that is still going, on this machine only, that keeps itself up to date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock, Thread

from layerscope.errors import LayerscopeError
from layerscope.report.live import describe, live_page, read, version
from layerscope.report.render import html, script_json

HOST = "127.0.0.1"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; \
img-src data: blob:; connect-src 'self'"


class Live:
    """The page of one run, made again when the run on disk has changed.

    Args:
        path: Folder of the run.
        refresh: Seconds between two looks of the page.
    """

    def __init__(self, path: Path, refresh: float) -> None:
        self._path = path
        self._refresh = refresh
        self._lock = Lock()
        self._made: tuple[str, str] = ("", "")

    def _script(self, shown: str) -> str:
        text = files("layerscope.report").joinpath("live.js").read_text(encoding="utf-8")
        text = text.replace("REFRESH", script_json(1000 * self._refresh))
        return f"<script>{text.replace('VERSION', script_json(shown))}</script></body>"

    def page(self) -> str:
        """The whole page, with the script that keeps it up to date."""
        with self._lock:
            now = version(self._path)
            if self._made[0] != now:
                made = html(live_page(read(self._path)))
                self._made = now, made.replace("</body>", self._script(now))
            return self._made[1]

    def state(self) -> dict[str, str]:
        """The version of what is on disk, and how far the run is in words."""
        progress = read(self._path).progress
        return {
            "version": version(self._path),
            "status": progress.status,
            "text": f"{self._path.name}: {describe(progress)}.",
        }


@contextmanager
def serving(path: str | Path, port: int = 0, refresh: float = 2.0) -> Iterator[str]:
    """Serve the page of a run to browsers of this machine.

    It listens on the loopback interface only, answers requests that were meant for it (a name that
    somebody else points at this machine is none), and reads nothing but the run.

    Args:
        path: Folder of the run.
        port: Port; any free one where 0.
        refresh: Seconds after which the page looks again.

    Yields:
        The address.

    Raises:
        LayerscopeError: There is no run, or the port is taken.
    """
    live = Live(Path(path), refresh)
    live.state()
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(live))
    except OSError as error:
        raise LayerscopeError(
            f"cannot listen on port {port}: {error.strerror or error}.",
            "Choose another port; 0 takes a free one.",
        ) from error
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(live: Live) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            port = self.server.server_address[1]  # pyright: ignore[reportIndexIssue]
            if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
                self.send_error(403, "not for this server")
                return
            makers = {
                "/": lambda: (live.page(), "text/html; charset=utf-8"),
                "/state": lambda: (json.dumps(live.state()), "application/json"),
            }
            maker = makers.get(self.path.partition("?")[0])
            if maker is None:
                self.send_error(404)
                return
            try:
                text, kind = maker()
            except (LayerscopeError, OSError) as error:
                self.send_error(503, "the run cannot be read", str(error))
                return
            self._answer(text.encode(), kind)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
