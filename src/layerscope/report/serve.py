"""A page on a run that is still going, on this machine only, that keeps itself up to date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Event, Lock, Thread

from layerscope.errors import LayerscopeError
from layerscope.report.live import Watched, describe, live_page
from layerscope.report.render import html, script_json

HOST = "127.0.0.1"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; \
img-src data: blob:; connect-src 'self'"


class Served:
    """The page of one run, made again when the run on disk has changed.

    Args:
        watched: The run.
        refresh: Seconds between two looks of the page.
    """

    def __init__(self, watched: Watched, refresh: float) -> None:
        self._watched = watched
        self._refresh = refresh
        self._lock = Lock()
        self._made: tuple[str, str] = ("", "")
        self._asked = False
        self._ended = Event()

    def _script(self, shown: str) -> str:
        text = files("layerscope.report").joinpath("live.js").read_text(encoding="utf-8")
        text = text.replace("REFRESH", script_json(1000 * self._refresh))
        return f"<script>{text.replace('VERSION', script_json(shown))}</script></body>"

    def page(self) -> str:
        """The whole page, with the script that keeps it up to date."""
        with self._lock:
            self._asked = True
            now, live = self._watched.now()
            if self._made[0] != now:
                made = html(live_page(live))
                self._made = now, made.replace("</body>", self._script(now))
            if live.progress.status != "running":
                self._ended.set()
            return self._made[1]

    def wait_for_a_last_look(self, seconds: float) -> None:
        """Until a browser that showed the page has asked for it since the run ended."""
        if self._asked:
            self._ended.wait(seconds)

    def state(self) -> dict[str, str]:
        """The version of what is on disk, and how far the run is in words."""
        now, live = self._watched.now()
        return {
            "version": now,
            "status": live.progress.status,
            "text": f"{live.run.path.name}: {describe(live.progress)}.",
        }


@contextmanager
def serving(watched: Watched, port: int = 0, refresh: float = 2.0) -> Iterator[tuple[str, Served]]:
    """Serve the page of a run to browsers of this machine.

    It listens on the loopback interface only, answers requests that were meant for it (a name that
    somebody else points at this machine is none), and reads nothing but the run.

    Args:
        watched: The run.
        port: Port; any free one where 0.
        refresh: Seconds after which the page looks again.

    Yields:
        The address, and what is served there.

    Raises:
        LayerscopeError: The port is taken.
    """
    served = Served(watched, refresh)
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(served))
    except (OSError, OverflowError) as error:
        raise LayerscopeError(
            f"cannot listen on port {port}: {getattr(error, 'strerror', None) or error}.",
            "Choose another port; 0 takes a free one.",
        ) from error
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/", served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            port = self.server.server_address[1]  # pyright: ignore[reportIndexIssue]
            if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
                self.send_error(403, "not for this server")
                return
            makers = {
                "/": lambda: (served.page(), "text/html; charset=utf-8"),
                "/state": lambda: (json.dumps(served.state()), "application/json"),
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
            with suppress(ConnectionError):  # the browser has gone on
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
