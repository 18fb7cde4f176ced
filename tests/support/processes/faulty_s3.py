"""A proxy on loopback in front of an S3 server, which answers some requests as a bad network or a full server does."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import pytest

from vavl.errors import InputError
from vavl.store import checked_files

Kind = Literal["silent", "short", "busy", "expired"]
SILENT_SECONDS = 1.5
"""A client's timeout has to be shorter."""
_ERRORS = {"busy": (503, "ServiceUnavailable"), "expired": (400, "ExpiredToken")}
_OF_A_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Faults:
    """What the proxy does next.

    Attributes:
        kind: no answer, half a body, 503, or 400 ExpiredToken.
        requests: pattern of "METHOD /path" that it is done to.
        left: so many times.
        done: "METHOD /path" of the requests that it was done to.
    """

    endpoint: str
    kind: Kind = "busy"
    requests: str = "$."
    left: int = 0
    done: list[str] = field(default_factory=list)

    def inject(self, kind: Kind, requests: str, times: int) -> None:
        """Do this from now on."""
        self.kind, self.requests, self.left = kind, requests, times
        self.done.clear()

    def next(self, request: str) -> Kind | None:
        """Return what is done to a request."""
        if self.left <= 0 or not re.search(self.requests, request):
            return None
        self.left -= 1
        self.done.append(request)
        return self.kind


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, origin: str) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.origin, self.faults = origin, Faults(f"http://127.0.0.1:{self.server_port}")


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *words: object) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.faults.next(f"{self.command} {self.path}")
        if fault == "silent":
            time.sleep(SILENT_SECONDS)
            self.close_connection = True
        elif fault in _ERRORS:
            status, code = _ERRORS[fault]
            self._answer(status, f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode(), {})
        else:
            self._forward(sent, is_short=fault == "short")

    def _forward(self, sent: bytes, *, is_short: bool) -> None:
        connection = http.client.HTTPConnection(self.server.origin, timeout=30)
        connection.request(self.command, self.path, sent, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_A_CONNECTION}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.headers["Content-Length"]
        self._answer(answer.status, body, headers, is_short=is_short)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, is_short: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"" if self.command == "HEAD" else body[: len(body) // 2] if is_short else body)
        self.close_connection = is_short

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815


@contextlib.contextmanager
def asked_again(faults: Faults, kind: Kind, requests: str, work: Callable[[], object]) -> Iterator[None]:
    """Let the block meet as many faults as make the drivers give up once; what it does has to succeed all the same.

    ``work`` shows how many these are: without attempts of our own it has to fail.
    """
    faults.inject(kind, requests, 10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked_files, "_PAUSES_S", ())
        with pytest.raises(InputError, match=r"cannot be (read|written)"):
            work()
    enough = len(faults.done)
    assert enough
    faults.inject(kind, requests, enough)
    yield
    assert len(faults.done) == enough


@contextlib.contextmanager
def faulty_s3(endpoint: str) -> Iterator[Faults]:
    """Yield a proxy of the server at ``endpoint``; its own address is ``Faults.endpoint``."""
    server = _Server(urlsplit(endpoint).netloc)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.faults
    finally:
        server.shutdown()
        server.server_close()
