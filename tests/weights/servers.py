"""Servers on this machine that answer as good, broken and hostile ones do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers GET as :attr:`Server.files` and :attr:`Server.answers` say."""

    def do_HEAD(self):
        self.send_response(200 if self.path in self.server.files else 404)
        self.end_headers()

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range", "")))
        answer = server.answers.get(self.path)
        if answer is not None:
            answer(self)
        elif self.path in server.files:
            self.send_part(server.files[self.path])
        else:
            self.send_error(404)

    def send_part(self, content: bytes, tag: str = "", stop: int | None = None) -> None:
        """Send a file, or the part of it that is asked for; ``stop`` ends the connection there."""
        tag = tag or f'"{hash(content)}"'
        wanted = self.headers.get("Range", "")
        first = int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == tag else 0
        if first:
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:stop])

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Files and special answers by path, and what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[Handler], None]] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass  # clients go away


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server meanwhile."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def dying(content: bytes, bytes_each: int, times: int = 1000) -> Callable[[Handler], None]:
    """Close the connection after so many bytes, so often; then answer as one should."""
    left = [times]

    def answer(handler: Handler) -> None:
        left[0] -= 1
        if left[0] < 0:
            handler.send_part(content)
            return
        wanted = handler.headers.get("Range", "")
        first = int(wanted[6:-1]) if wanted else 0
        handler.send_part(content, stop=first + bytes_each)

    return answer


def failing(code: int, content: bytes = b"", times: int = 1000) -> Callable[[Handler], None]:
    """Answer with an error, so often."""
    left = [times]

    def answer(handler: Handler) -> None:
        left[0] -= 1
        if left[0] < 0:
            handler.send_part(content)
        else:
            handler.send_error(code)

    return answer


def redirecting(target: str) -> Callable[[Handler], None]:
    """Send somewhere else."""

    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return answer


def endless(handler: Handler) -> None:
    """Never stop sending."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def boasting(handler: Handler) -> None:
    """Announce more than any disk has."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 60))
    handler.end_headers()


def silent(handler: Handler) -> None:
    """Say nothing."""
    time.sleep(5)


def stalling(handler: Handler) -> None:
    """Begin a file, and go on with a byte now and then."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"P")
        time.sleep(0.05)


def dripping(handler: Handler) -> None:
    """Send the head of an answer byte by byte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(100):
        handler.wfile.write(b"a")
        time.sleep(0.05)
