"""optuna-dashboard for looking only: `python -m study.optuna_ui FOLDER PORT`, started by `study ui`.

The dashboard itself can rename and delete studies, and asks nobody who it is. Here it answers on 127.0.0.1,
to requests that name this machine (a page of another site cannot), and to none that would change anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from study import storage
from study.masking import OPTIONS

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
HOST = "127.0.0.1"


def for_looking(application: Application, port: int) -> Application:
    """The application without its ways to change something, and for this machine's own names only."""
    hosts = (f"{HOST}:{port}", f"localhost:{port}")

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        known = environ.get("HTTP_HOST") in hosts
        if known and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard is for looking." if known else b"Unknown host."]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line for every request."""


def main(folder: Path, port: int) -> None:
    """Serves until the process ends. Raises UserError for a database that does not open."""
    import optuna_dashboard

    opened = storage.open_storage(folder, os.environ.get(OPTIONS["--optuna-storage"]) or None)
    application = for_looking(optuna_dashboard.wsgi(opened), port)
    make_server(HOST, port, application, server_class=_Server, handler_class=_Quiet).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
