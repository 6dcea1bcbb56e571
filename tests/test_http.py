"""Servers that never finish, or send too much: every request ends, in one sentence, over real sockets."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.http import MAX_ANSWER_BYTES
from diagnose.models.served import ServedModel

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SAID = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}).encode()
Send = Callable[[socket.socket], None]


@contextmanager
def serving(send: Send) -> Iterator[str]:
    """The URL of a server that answers every connection with `send`, after the request's headers."""

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

    def talk(peer: socket.socket) -> None:
        with peer:
            try:
                peer.recv(65536)
                send(peer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):  # closing on unread bytes would reset the connection
                    pass
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def dripping(head: bytes, rest: bytes) -> Send:
    def send(peer: socket.socket) -> None:
        peer.sendall(head)
        for k in range(len(rest)):
            peer.sendall(rest[k : k + 1])
            time.sleep(0.4)

    return send


def whole(body: bytes, *headers: bytes) -> Send:
    def send(peer: socket.socket) -> None:
        length = b"Content-Length: %d" % len(body)
        peer.sendall(OK + b"\r\n".join((length, *headers)) + b"\r\n\r\n" + body)

    return send


def endless(peer: socket.socket) -> None:
    peer.sendall(OK + b"Content-Length: 10000000000\r\n\r\n" + b'{"choices": [')
    while True:
        peer.sendall(b" " * 2**20)


def redirecting(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1\r\nContent-Length: 10000000000\r\n\r\n")
    while True:
        peer.sendall(b" " * 2**20)


def sent_on(place: bytes) -> Send:
    def send(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n")

    return send


@pytest.mark.parametrize("place", [b"http://localhost:9/v1", b"//elsewhere.example/v1", b"https://elsewhere.example"])
def test_prompts_do_not_follow_a_server_to_another_host(place: bytes) -> None:
    with serving(sent_on(place)) as url, pytest.raises(BadInput) as error:
        asked(url)
    assert "the server sends requests on to http" in str(error.value) and "prompts would leave" in str(error.value)


def asked(url: str) -> None:
    ServedModel(ModelConfig(kind="openai", base_url=url, name="m", timeout_seconds=3, retries=0)).reach()


def test_an_ordinary_answer_packed_or_not_is_read() -> None:
    for send in (whole(SAID), whole(gzip.compress(SAID), b"Content-Encoding: gzip")):
        with serving(send) as url:
            asked(url)


@pytest.mark.parametrize(
    ("send", "says"),
    [
        (dripping(OK + b"Content-Length: %d\r\n\r\n" % len(SAID), SAID), "no whole answer within 3 s"),
        (dripping(b"", OK), "no whole answer within 3 s"),
        (dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 99), "no whole answer within 3 s"),
        (endless, f"more than {MAX_ANSWER_BYTES >> 20} MB"),
        (redirecting, f"more than {MAX_ANSWER_BYTES >> 20} MB"),
        (whole(gzip.compress(b" " * (MAX_ANSWER_BYTES + 1)), b"Content-Encoding: gzip"), "more than"),
        (whole(b"\x1f\x8b nothing packed", b"Content-Encoding: gzip"), "Error -3 while decompressing"),
        (whole(b"[" * 100_000 + b"]" * 100_000), "recursion"),
        (whole(b'{"choices": [], "usage": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001), "recursion"),
        (whole(b'{"choices": 7}'), "not a completion"),
    ],
    ids=[
        "body",
        "headers",
        "chunks",
        "10 GB",
        "redirect",
        "gzip bomb",
        "no gzip",
        "nested lists",
        "nested objects",
        "a number",
    ],
)
def test_what_a_server_sends_ends_in_one_sentence(send: Send, says: str) -> None:
    started = time.monotonic()
    with serving(send) as url, pytest.raises(BadInput) as error:
        asked(url)
    assert says in str(error.value) and f"model.base_url={url}: no usable answer" in str(error.value)
    assert time.monotonic() - started < 15, "dripping goes on for 20 seconds and more"


def test_a_command_that_waits_for_a_server_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """At once, not after all retries of all requests; and the record says so."""
    (tmp_path / "set.jsonl").write_text("".join(f'{{"prompt": "p{k}", "target": "t"}}\n' for k in range(64)))
    greeted = threading.Event()

    def send(peer: socket.socket) -> None:
        if greeted.is_set():
            time.sleep(600)
        whole(SAID)(peer)

    with serving(send) as url:
        model = [f"model.base_url={url}", "model.name=m", "model.retries=5"]
        command = [*model, f"evalset.path={tmp_path / 'set.jsonl'}", "probes.enabled=[plain]", "wandb.mode=disabled"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "diagnose.py"), *command, f"out={tmp_path / 'out'}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (tmp_path / "out" / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        greeted.set()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and "Traceback" not in said
    assert json.loads((tmp_path / "out" / "run.json").read_text())["reason"] == "stopped by SIGTERM"
