"""An HTTP line to a server that loses answers, breaks in the middle of an upload, or is slow once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Fault = Callable[["Request"], bool]
"""Does what it does to a request; False when the request is to pass unharmed."""


class Request(BaseHTTPRequestHandler):
    """One request on its way to the server, one connection each."""

    fault: ClassVar[Fault]
    port: ClassVar[int]
    body: bytes

    def forward(self, share: float = 1.0) -> http.client.HTTPConnection:
        """Sends the request, or the first part of its body."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "connection"):
                upstream.putheader(name, value)
        upstream.putheader("Host", f"127.0.0.1:{self.port}")
        upstream.putheader("Connection", "close")
        upstream.endheaders(self.body[: int(share * len(self.body))])
        return upstream

    def handle_request(self) -> None:
        self.close_connection = True
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if type(self).fault(self):
            return
        try:
            answer = self.forward().getresponse()
        except OSError:  # the server is away: the client shall see a closed connection
            return
        content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is pytest's."""


class Line:
    """Listens on loopback and passes on to `port`."""

    def __init__(self, port: int) -> None:
        self.handler = type("Line", (Request,), {"port": port, "fault": staticmethod(lambda request: False)})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fail(self, fault: Fault) -> None:
        self.handler.fault = staticmethod(fault)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def losing_every_answer_once() -> tuple[Fault, set[tuple[str, str]]]:
    """The first answer to each kind of writing request is lost, though the server did what it was asked."""
    lost: set[tuple[str, str]] = set()
    guard = threading.Lock()

    def fault(request: Request) -> bool:
        kind = (request.command, request.path.partition("?")[0])
        with guard:
            if request.command == "GET" or kind in lost or kind[1].endswith("/search"):
                return False
            lost.add(kind)
        request.forward().getresponse().read()
        return True

    return fault, lost


def carrying_out_late(path: str, seconds: float) -> Fault:
    """The first request to `path` is broken off for the client, and reaches the server only later."""
    done = threading.Event()

    def fault(request: Request) -> bool:
        if not request.path.endswith(path) or done.is_set():
            return False
        done.set()

        def later() -> None:
            time.sleep(seconds)
            request.forward().getresponse().read()

        threading.Thread(target=later, daemon=True).start()
        return True

    return fault


def at_half_of_an_upload(do: Callable[[], None]) -> Fault:
    """Does something when half of the first upload is with the server; the rest never gets there."""
    done = threading.Event()

    def fault(request: Request) -> bool:
        if request.command != "PUT" or done.is_set():
            return False
        done.set()
        upstream = request.forward(share=0.5)
        time.sleep(0.5)  # so that the server has begun to write
        do()
        upstream.close()
        return True

    return fault


class DatabaseLine:
    """Passes PostgreSQL's protocol on; loses the answer to a COMMIT that the database carried out."""

    def __init__(self, port: int) -> None:
        self.port, self.to_lose, self.lost = port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own_port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                for source, target in ((client, server), (server, client)):
                    arguments = (source, target, source is client)
                    threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(1 << 16):
                if asking and b"COMMIT" in data and self.lost < self.to_lose:
                    self.lost += 1
                    source.shutdown(socket.SHUT_RDWR)  # first: the answer must find nobody
                    target.sendall(data)
                    time.sleep(0.5)
                    return
                target.sendall(data)

    def close(self) -> None:
        self.listener.close()
