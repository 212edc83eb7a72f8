"""A hub on this machine: what `huggingface_hub` asks of a model hub over HTTP, answered from a folder of models."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`url`, the files that were asked for, and the repositories that were made: OWNER/NAME -> what the client asked for."""

    url: str
    fetched: set[str] = field(default_factory=set)
    made: dict[str, dict[str, object]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """What asked to write."""
    refuses: int = 0
    """A status to answer every request to write with."""
    large: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> content of what was put, before a commit names it."""


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve `folder/OWNER/NAME/...`, each model in one commit, `COMMIT`. Repositories may be made and written to."""
    hub = Hub("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            hub.large[self.path.rpartition("/")[2]] = self._body()
            self._send(200, b"", {})

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuses:
                return self._send(hub.refuses, b'{"error": "the plan of someone is used up"}', {"Content-Type": "application/json"})
            parts, body = self.path.split("?")[0].strip("/").split("/"), self._body()
            if parts[1:] == ["repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if (folder / name).exists():
                    return self._send(409, json.dumps({"url": f"{hub.url}/{name}"}).encode(), {"Content-Type": "application/json"})
                (folder / name).mkdir(parents=True)
                hub.made[name] = asked
                answer: dict[str, object] = {"url": f"{hub.url}/{name}"}
            elif parts[1:] == ["validate-yaml"]:
                answer = {"errors": [], "warnings": []}
            elif "preupload" in parts:
                large = (".safetensors", ".parquet")
                answer = {"files": [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(large) else "regular",
                                     "shouldIgnore": False} for f in json.loads(body)["files"]]}
            elif parts[-1] == "batch":
                answer = {"transfer": "basic", "objects": [
                    {**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}} for o in json.loads(body)["objects"]]}
            else:
                self._commit(folder / parts[2] / parts[3], body)
                answer = {"commitUrl": f"{hub.url}/{parts[2]}/{parts[3]}/commit/{COMMIT}", "commitOid": COMMIT}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def _commit(self, into: Path, body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    continue
                value, large = line["value"], line["key"] == "lfsFile"
                path = into / value["path"]
                if line["key"] == "deletedFile":
                    path.unlink()
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(hub.large[value["oid"]] if large else base64.b64decode(value["content"]))

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _answer(self) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            model = folder.joinpath(*(parts[2:4] if parts[0] == "api" else parts[:2]))
            if not model.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = {p.relative_to(model).as_posix(): p.read_bytes() for p in sorted(model.rglob("*")) if p.is_file()}
            if parts[0] != "api":
                name = "/".join(parts[4:])
                if self.command == "GET":
                    hub.fetched.add(name)
                etag = hashlib.sha1(files[name]).hexdigest()
                return self._send(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
            sizes = [{"rfilename": name, "size": len(content), "blobId": "0"} for name, content in files.items()]
            tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": "0"} for f in sizes]
            name = "/".join(parts[2:4])
            private = hub.made.get(name, {}).get("visibility") == "private"
            answer = tree if "tree" in parts else {"id": name, "sha": COMMIT, "siblings": sizes, "private": private}
            return self._send(200, json.dumps(answer).encode(), {})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
