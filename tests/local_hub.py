"""A hub on localhost: folders under `owner/name`, in the protocol that the clients of Hugging Face speak."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


class LocalHub:
    """`with LocalHub({"owner/name": folder}) as hub:`; a process finds it by HF_ENDPOINT=`hub.url`."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.asked: list[str] = []

    def __enter__(self) -> LocalHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.asked.append(path)
        for name, folder in self.hub.folders.items():
            for kind, prefix in (("models", ""), ("datasets", "/datasets")):
                if path.startswith(f"/api/{kind}/{name}"):
                    rest = path.removeprefix(f"/api/{kind}/{name}")
                    return self._about(name, folder, rest, deep="recursive=true" in address.query.lower())
                if path.startswith(f"{prefix}/{name}/resolve/"):
                    _, _, inside = path.removeprefix(f"{prefix}/{name}/resolve/").partition("/")
                    return self._file(folder / inside)
        self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def log_message(self, *args: Any) -> None:
        pass

    def _about(self, name: str, folder: Path, rest: str, deep: bool) -> None:
        """The repository, or what lies in one folder of it."""
        if rest.startswith("/tree/"):
            under = folder / rest.removeprefix("/tree/").partition("/")[2]
            if not under.is_dir():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._json([_entry(f, folder) for f in sorted(under.rglob("*") if deep else under.iterdir())])
        files = [{"rfilename": str(f.relative_to(folder))} for f in sorted(folder.rglob("*")) if f.is_file()]
        return self._json({"_id": "0", "id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first, dash, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not dash:
            return self._send(200, data, headers)
        end = min(int(last or len(data)), len(data) - 1)
        return self._send(
            206, data[int(first) : end + 1], headers | {"Content-Range": f"bytes {first}-{end}/{len(data)}"}
        )

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
    return {"type": kind, "path": str(path.relative_to(folder)), "size": size, "oid": "0" * 40}
