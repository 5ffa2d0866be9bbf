"""A small Hugging Face hub on this machine, which the real ``huggingface_hub`` uploads to.

It speaks the requests of ``whoami``, ``model_info``, ``create_repo``, ``create_branch``,
``upload_folder`` (large files by git LFS, without Xet) and ``snapshot_download``, keeps everything in
memory, and checks what it is sent: logins, sizes, hashes, parents of commits, the head of a card.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import yaml

TOKEN = "hf_" + "t" * 34
LICENSES = ("apache-2.0", "mit", "other", "unknown")
LARGE = (".safetensors", ".png")


@dataclasses.dataclass
class Commit:
    """Files by path, and what the commit was called."""

    files: dict[str, bytes]
    message: str

    @property
    def oid(self) -> str:
        content = json.dumps(
            [self.message, *sorted((k, hashlib.sha1(v).hexdigest()) for k, v in self.files.items())]
        )
        return hashlib.sha1(content.encode()).hexdigest()


@dataclasses.dataclass
class Repo:
    """Branch to its commits, the newest last."""

    private: bool
    branches: dict[str, list[Commit]]


class LocalHub:
    """The state of the hub, and the requests that it got.

    Attributes:
      repos: by ``OWNER/NAME``.
      objects: large files by their hash.
      requests: method and path of each.
      role: of the token that is accepted.
      fail: pattern of ``METHOD path`` that is answered with an error.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.role = "write"
        self.fail = "never"
        self.address = ""

    def files(self, repo, branch="main"):
        """Files of the newest commit."""
        return self.repos[repo].branches[branch][-1].files

    def add(self, repo, files, branch="main"):
        """A repository that somebody made before."""
        commit = Commit({".gitattributes": b"", **files}, "before")
        self.repos.setdefault(repo, Repo(False, {})).branches[branch] = [commit]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status, message, code=""):
        super().__init__(message)
        self.status, self.code = status, code


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *args):
        """Nothing is printed."""

    def answer(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        try:
            if re.search(self.hub.fail, request):
                raise Refusal(403, "the quota of this account is used up")
            for pattern, name in ROUTES:
                if match := re.fullmatch(pattern, request):
                    status, content, headers = getattr(self, name)(body, *match.groups())
                    break
            else:
                raise Refusal(404, f"no such request: {request}")
        except Refusal as refusal:
            status, headers = refusal.status, {"X-Error-Message": str(refusal)}
            content = json.dumps({"error": str(refusal)}).encode()
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def read_chunks(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def check_login(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Invalid credentials in Authorization header")

    def json(self, value, status=200):
        return status, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def commits(self, repo, revision):
        if repo not in self.hub.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        branches = self.hub.repos[repo].branches
        for name, commits in branches.items():
            if revision in (name, commits[-1].oid):
                return commits
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def whoami(self, body):
        self.check_login()
        auth = {"accessToken": {"displayName": "test", "role": self.hub.role}}
        user = {"type": "user", "name": "alice", "orgs": [{"name": "shapes-lab"}], "auth": auth}
        return self.json(user)

    def info(self, body, repo, revision="main"):
        commit = self.commits(repo, revision or "main")[-1]
        files = [{"rfilename": name} for name in sorted(commit.files)]
        entry = {"_id": "1", "id": repo, "modelId": repo, "sha": commit.oid, "siblings": files}
        return self.json(entry | {"private": self.hub.repos[repo].private, "tags": []})

    def tree(self, body, repo, revision):
        commit = self.commits(repo, revision)[-1]
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": blob_oid(content)}
            | ({"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}}
               if is_large(name) else {})
            for name, content in sorted(commit.files.items())
        ]  # fmt: skip
        return self.json(entries)

    def create(self, body):
        self.check_login()
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            raise Refusal(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        first = Commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.hub.repos[name] = Repo(private, {"main": [first]})
        return self.json({"url": f"{self.hub.address}/{name}", "id": name})

    def branch(self, body, repo, name):
        self.check_login()
        commits = self.commits(repo, "main")
        self.hub.repos[repo].branches[name] = list(commits)
        return self.json({})

    def validate(self, body):
        head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        errors = []
        if head.get("license") not in LICENSES:
            errors.append({"message": f'"license" must be one of {LICENSES}'})
        for key in ("tags", "datasets"):
            if not isinstance(head.get(key, []), list):
                errors.append({"message": f'"{key}" must be an array'})
        return self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, body, repo, revision):
        self.check_login()
        there = self.commits(repo, revision)[-1].files
        modes = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            mode = {"path": name, "uploadMode": "lfs" if is_large(name) else "regular"}
            mode["shouldIgnore"] = False
            if name in there:
                content = there[name]
                mode["oid"] = sha256(content) if is_large(name) else blob_oid(content)
            modes.append(mode)
        return self.json({"files": modes})

    def lfs_batch(self, body, repo):
        self.check_login()
        answer = []
        for entry in json.loads(body)["objects"]:
            result = {"oid": entry["oid"], "size": entry["size"], "authenticated": True}
            if entry["oid"] not in self.hub.objects:
                result["actions"] = {
                    "upload": {"href": f"{self.hub.address}/lfs/{entry['oid']}"},
                    "verify": {"href": f"{self.hub.address}/verify"},
                }
            answer.append(result)
        return self.json({"transfer": "basic", "objects": answer})

    def put_object(self, body, oid):
        if sha256(body) != oid:
            raise Refusal(400, "the bytes are not those of the hash")
        self.hub.objects[oid] = body
        return self.json({})

    def verify(self, body):
        entry = json.loads(body)
        if len(self.hub.objects[entry["oid"]]) != entry["size"]:
            raise Refusal(400, "another size")
        return self.json({})

    def commit(self, body, repo, revision):
        self.check_login()
        commits = self.commits(repo, revision)
        files, message = dict(commits[-1].files), ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, commits[-1].oid):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"unknown operation {kind}")
        new = Commit(files, message)
        commits.append(new)
        url = f"{self.hub.address}/{repo}/commit/{new.oid}"
        return self.json({"success": True, "commitOid": new.oid, "commitUrl": url})

    def resolve(self, body, repo, revision, name):
        commit = self.commits(repo, revision)[-1]
        if name not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content = commit.files[name]
        etag = sha256(content) if is_large(name) else blob_oid(content)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{etag}"'}
        return 200, content, headers | {"Content-Length": str(len(content))}


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (rf"GET /api/models/{REPO}", "info"),
    (rf"GET /api/models/{REPO}/revision/(.+)", "info"),
    (rf"GET /api/models/{REPO}/tree/([^/]+)/?", "tree"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/models/{REPO}/branch/(.+)", "branch"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{REPO}/preupload/(.+)", "preupload"),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/(\w+)", "put_object"),
    (r"POST /verify", "verify"),
    (rf"POST /api/models/{REPO}/commit/(.+)", "commit"),
    (rf"(?:GET|HEAD) /{REPO}/resolve/([^/]+)/(.+)", "resolve"),
)
"""Pattern of ``METHOD path`` to the method that answers it."""


def is_large(name):
    return name.endswith(LARGE)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob_oid(content):
    """Hash of a file as git has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def local_hub(monkeypatch, cache):
    """A running hub that ``huggingface_hub`` of this process takes for the one of the internet."""
    from huggingface_hub import constants, hf_api

    hub = LocalHub()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub})
    )
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens"),
    }.items():
        assert hasattr(constants, name), name
        monkeypatch.setattr(constants, name, value)
    # The functions of the package's top level are methods of one object that was made at its import.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
