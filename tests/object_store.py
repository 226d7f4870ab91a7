"""As much of an S3 server as reading needs: objects of a folder, over HTTP, with ranges and listings."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@contextlib.contextmanager
def object_store(root: Path) -> Iterator[str]:
    """Serve `root/BUCKET/KEY`; gives the endpoint's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if "list-type" in query:
                self._send(200, _listing(root / unquote(url.path).strip("/"), query.get("prefix", [""])[0]))
                return
            file = root / unquote(url.path).lstrip("/")
            if not file.is_file():
                self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            content = file.read_bytes()
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if not asked:
                self._send(200, content)
                return
            first, last = asked.groups()
            start = int(first) if first else max(len(content) - int(last), 0)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            self._send(206, content[start:stop], f"bytes {start}-{stop - 1}/{len(content)}")

        def _send(self, status: int, body: bytes, part: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
            if part:
                self.send_header("Content-Range", part)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(bucket: Path, prefix: str) -> bytes:
    """An answer to ListObjectsV2."""
    keys = sorted(str(file.relative_to(bucket)) for file in bucket.rglob("*") if file.is_file())
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{(bucket / key).stat().st_size}</Size>"
        '<LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag></Contents>'
        for key in keys
        if key.startswith(prefix)
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
