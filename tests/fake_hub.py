"""A Hugging Face Hub of a few folders, served on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Hub:
    """Repositories by ``owner/name``, each with a folder for each revision; ``fetched`` is what was asked for."""

    def __init__(self, repos: Mapping[str, Mapping[str, Path]], gated: frozenset[str] = frozenset()) -> None:
        self.repos = repos
        self.gated = gated
        self.fetched: list[str] = []
        self.tokens: set[str | None] = set()
        self.address = ""

    def folder(self, repo: str, revision: str) -> tuple[str, Path] | None:
        for name, folder in self.repos[repo].items():
            if revision in (name, commit(repo, name)):
                return commit(repo, name), folder
        return None


def commit(repo: str, revision: str) -> str:
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(Answers):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answers(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class' name
        pass

    def answer(self, *, body: bool) -> None:
        self.served.tokens.add(self.headers.get("Authorization"))
        parts = urlsplit(self.path).path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        if api:
            parts = parts[2:]
        repo, what, revision = "/".join(parts[:2]), *(parts[2:4] or ["revision", "main"])
        if repo not in self.served.repos:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if repo in self.served.gated:
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        found = self.served.folder(repo, revision)
        if found is None:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        sha, folder = found
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if api and what == "revision":
            siblings = [{"rfilename": name} for name in names]
            return self.send_json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "private": False})
        if api:
            return self.send_json(
                [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": etag(folder / name)}
                    for name in names
                ]
            )
        path = folder.joinpath(*parts[4:])
        if not path.is_file():
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        if body:
            self.served.fetched.append(path.name)
        return self.send(200, path.read_bytes(), {"ETag": f'"{etag(path)}"', "X-Repo-Commit": sha}, body)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, True)

    def send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
