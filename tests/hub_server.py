"""A hub on this machine: what `huggingface_hub` asks of a model hub over HTTP, answered from a folder of models."""

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
    """`url`, and the files that were asked for."""

    url: str
    fetched: set[str] = field(default_factory=set)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve `folder/OWNER/NAME/...`, each model in one commit, `COMMIT`."""
    hub = Hub("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

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
            answer = tree if "tree" in parts else {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": sizes}
            return self._send(200, json.dumps(answer).encode(), {})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
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
