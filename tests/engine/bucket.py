"""A stand-in for Google Cloud Storage on loopback, over a dictionary.

It has the part of the JSON API that the clients use. ``gcsfs``, ``google.cloud.storage`` and
TensorStore's driver find it by the variables of ``environment``.
"""

from __future__ import annotations

import email
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """A server with one bucket, on a thread of its own until ``close``.

    Attributes:
      objects: name to bytes and generation.
      sessions: id of an unfinished resumable upload to the object's name and the bytes so far.
    """

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.generations = itertools.count(1)
        self.sessions: dict[str, tuple[str, bytes]] = {}
        self.lock = threading.RLock()
        handler = type("Handler", (Handler,), {"bucket": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        # Clients that are killed close their connection, which is no error here.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process whose clients use this server."""
        url = f"http://127.0.0.1:{self.server.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "FSSPEC_GCS_TOKEN": "anon",
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GOOGLE_CLOUD_PROJECT": "none",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, name: str, data: bytes) -> None:
        with self.lock:
            self.objects[name] = (data, next(self.generations))

    def meta(self, name: str) -> dict:
        data, generation = self.objects[name]
        times = {key: "2026-01-01T00:00:00.000Z" for key in ("timeCreated", "updated")}
        return {
            "kind": "storage#object",
            "id": name,
            "name": name,
            "bucket": "bucket",
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "etag": f"e{generation}",
            **times,
        }


class Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code: int, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header(
            "Content-Type",
            "application/octet-stream" if isinstance(body, bytes) else "application/json",
        )
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self):
        data, url = self.body(), urlsplit(self.path)
        query = {
            key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        with self.bucket.lock:
            self.route(url.path, query, data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def route(self, path: str, query: dict, data: bytes):
        store = self.bucket
        path = re.sub(
            r"^/(download/|upload/)?storage/v1", lambda m: "/" + (m[1] or "").rstrip("/"), path
        )
        is_upload = path.startswith("/upload")
        path = re.sub(r"^/(upload|download)?", "", path).lstrip("/")

        # A batch, or the bucket itself.
        if path.startswith("batch"):
            return self.batch(data)
        match = re.fullmatch(r"b/([^/]+)(/o(?:/(.*))?|/storageLayout)?", path)
        if not match:
            return self.answer(404, {"error": {"code": 404, "message": path}})
        if not match[2] or match[2] == "/storageLayout":
            bucket = {"kind": "storage#bucket", "name": match[1], "id": match[1]}
            return self.answer(200, bucket | {"location": "US", "locationType": "region"})

        # Uploads, listings and copies.
        name = unquote(match[3]) if match[3] else None
        if is_upload:
            return self.upload(query, data)
        if name is None:
            return self.answer(200, self.listing(query))
        if self.command == "POST" and ("/rewriteTo/" in name or "/copyTo/" in name):
            source, target = re.split(r"/(?:rewriteTo|copyTo)/b/[^/]+/o/", name)
            store.put(target, store.objects[source][0])
            return self.answer(200, {"done": True, "resource": store.meta(target)})

        # One object: deleted, described, or read whole or in part.
        if name not in store.objects:
            return self.answer(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        content, generation = store.objects[name]
        if self.command == "DELETE":
            del store.objects[name]
            return self.answer(204)
        if query.get("alt") != "media":
            return self.answer(200, store.meta(name))
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.answer(304)
        headers = {"x_goog_generation": str(generation), "ETag": f"e{generation}"}
        byte_range = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if byte_range:
            size = len(content)
            start, end = byte_range[1], byte_range[2]
            first = int(start) if start else size - int(end)
            last = min(int(end), size - 1) if start and end else size - 1
            if first >= size:
                return self.answer(416, b"", Content_Range=f"bytes */{size}")
            return self.answer(
                206,
                content[first : last + 1],
                Content_Range=f"bytes {first}-{last}/{size}",
                **headers,
            )
        return self.answer(200, content, **headers)

    def upload(self, query: dict, data: bytes):
        store = self.bucket
        upload_type, session = query.get("uploadType"), query.get("upload_id")

        # A further part of a resumable upload; the last part names the total size.
        if session:
            name, received = store.sessions[session]
            content_range = self.headers.get("Content-Range", "bytes */*")
            received += data
            store.sessions[session] = (name, received)
            if not re.search(r"/\d+$", content_range):
                return self.answer(308, b"", Range=f"bytes=0-{len(received) - 1}")
            store.put(name, received)
            return self.answer(200, store.meta(name))

        name = query.get("name")
        if upload_type == "resumable":
            name = name or json.loads(data)["name"]
            session = str(next(store.generations))
            store.sessions[session] = (name, b"")
            path = f"/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id={session}"
            return self.answer(200, {}, Location=f"http://{self.headers['Host']}{path}")
        if upload_type == "multipart":
            text = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + data
            metadata, content = email.message_from_bytes(text).get_payload()
            name = json.loads(metadata.get_payload())["name"]
            data = content.get_payload(decode=True)

        # A conditional upload; generation 0 means that the object must not exist.
        if (expected := query.get("ifGenerationMatch")) is not None:
            generation = store.objects[name][1] if name in store.objects else 0
            if int(expected) != generation:
                return self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        store.put(name, data)
        return self.answer(200, store.meta(name))

    def listing(self, query: dict) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.bucket.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            suffix = name[len(prefix) :]
            if delimiter and delimiter in suffix:
                prefixes.add(prefix + suffix.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.bucket.meta(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def batch(self, data: bytes):
        text = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + data
        body = ""
        for part in email.message_from_bytes(text).get_payload():
            # Clients only send deletions in batches.
            request_line = part.get_payload().strip().splitlines()[0]
            name = unquote(re.search(r"/o/([^ ?]+)", request_line)[1])
            deleted = self.bucket.objects.pop(name, None)
            status = "204 No Content" if deleted else "404 Not Found"
            body += "--b\r\nContent-Type: application/http\r\n"
            body += f"Content-ID: <response-{part['Content-ID']}>\r\n\r\n"
            body += f"HTTP/1.1 {status}\r\n\r\n\r\n"
        body += "--b--\r\n"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/mixed; boundary=b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
