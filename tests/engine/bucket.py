"""A stand-in for Google Cloud Storage on loopback: the part of its JSON API that its clients use, over a dictionary.

``gcsfs``, ``google.cloud.storage`` and TensorStore's driver find it by the variables of ``environment``.
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
    """``objects`` by name, each with its bytes and a generation; answers on a thread of its own until ``close``."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.generations = itertools.count(1)
        self.sessions: dict[str, tuple[str, bytes]] = {}
        self.lock = threading.RLock()
        handler = type("Handler", (Handler,), {"bucket": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.handle_error = lambda *_: None  # clients that were killed hang up
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For a process whose clients are to find this server."""
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
            "kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(data)),
            "generation": str(generation), "metageneration": "1", "etag": f"e{generation}", "id": name, **times,
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One request."""

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
            out = b""
            while size := int(self.rfile.readline().strip(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
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
        upload, path = (
            path.startswith("/upload"),
            re.sub(r"^/(upload|download)?", "", path).lstrip("/"),
        )
        if path.startswith("batch"):
            return self.batch(data)
        match = re.fullmatch(r"b/([^/]+)(/o(?:/(.*))?|/storageLayout)?", path)
        if not match:
            return self.answer(404, {"error": {"code": 404, "message": path}})
        if not match[2] or match[2] == "/storageLayout":
            about = {"kind": "storage#bucket", "name": match[1], "id": match[1]}
            return self.answer(200, about | {"location": "US", "locationType": "region"})
        name = unquote(match[3]) if match[3] else None
        if upload:
            return self.upload(query, data)
        if name is None:
            return self.answer(200, self.listing(query))
        if self.command == "POST" and ("/rewriteTo/" in name or "/copyTo/" in name):
            source, target = re.split(r"/(?:rewriteTo|copyTo)/b/[^/]+/o/", name)
            store.put(target, store.objects[source][0])
            return self.answer(200, {"done": True, "resource": store.meta(target)})
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
        about = {"x_goog_generation": str(generation), "ETag": f"e{generation}"}
        if (wanted := self.headers.get("Range")) and (
            span := re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        ):
            size = len(content)
            first = int(span[1]) if span[1] else size - int(span[2])
            last = min(int(span[2]), size - 1) if span[1] and span[2] else size - 1
            if first >= size:
                return self.answer(416, b"", Content_Range=f"bytes */{size}")
            return self.answer(
                206,
                content[first : last + 1],
                Content_Range=f"bytes {first}-{last}/{size}",
                **about,
            )
        return self.answer(200, content, **about)

    def upload(self, query: dict, data: bytes):
        store = self.bucket
        kind, session = query.get("uploadType"), query.get("upload_id")
        if session:
            name, have = store.sessions[session]
            span = self.headers.get("Content-Range", "bytes */*")
            have += data
            store.sessions[session] = (name, have)
            if not re.search(r"/\d+$", span):
                return self.answer(308, b"", Range=f"bytes=0-{len(have) - 1}")
            store.put(name, have)
            return self.answer(200, store.meta(name))
        name = query.get("name")
        if kind == "resumable":
            name = name or json.loads(data)["name"]
            key = str(next(store.generations))
            store.sessions[key] = (name, b"")
            host = self.headers["Host"]
            where = (
                f"http://{host}/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id={key}"
            )
            return self.answer(200, {}, Location=where)
        if kind == "multipart":
            text = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + data
            about, content = email.message_from_bytes(text).get_payload()
            name, data = json.loads(about.get_payload())["name"], content.get_payload(decode=True)
        if (wanted := query.get("ifGenerationMatch")) is not None:
            now = store.objects[name][1] if name in store.objects else 0
            if int(wanted) != now:
                return self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        store.put(name, data)
        return self.answer(200, store.meta(name))

    def listing(self, query: dict) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.bucket.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.bucket.meta(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def batch(self, data: bytes):
        text = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + data
        out = ""
        for part in email.message_from_bytes(text).get_payload():
            line = part.get_payload().strip().splitlines()[0]
            name = unquote(re.search(r"/o/([^ ?]+)", line)[1])
            found = self.bucket.objects.pop(name, None)
            status = "204 No Content" if found else "404 Not Found"
            out += f"--b\r\nContent-Type: application/http\r\nContent-ID: <response-{part['Content-ID']}>\r\n\r\n"
            out += f"HTTP/1.1 {status}\r\n\r\n\r\n"
        out += "--b--\r\n"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/mixed; boundary=b")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out.encode())
