"""An HTTP client whose every request ends: within a time by the clock, and with an answer of limited size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx2
from openai import DefaultAsyncHttpxClient

MAX_ANSWER_BYTES = 64 * 2**20
"""Unpacked. The longest answer asked for, 24 samples of 8,192 tokens with log-probabilities, is below 20 MB."""
T = TypeVar("T")


class BoundedClient(DefaultAsyncHttpxClient):
    """httpx2 limits the wait for the next byte, not for the answer, and reads whatever a server sends."""

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self.seconds = seconds

    async def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        """Send, and read the whole answer.

        Raises:
            httpx2.ReadTimeout: not within the time.
            httpx2.DecodingError: larger than the limit, or not packed as its header says.
        """
        try:
            async with asyncio.timeout(self.seconds):
                answer = await super().send(request, **settings | {"stream": True})
                return await _read(answer, request)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no whole answer within {self.seconds:g} s", request=request) from None


async def _read(answer: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    body = bytearray()
    try:
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise httpx2.DecodingError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MB", request=request)
    finally:
        await answer.aclose()
    packed = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in packed]
    return httpx2.Response(answer.status_code, headers=headers, content=bytes(body), request=request)


class Loop:
    """An event loop in a thread of its own, so that threads can wait for requests that can be cancelled."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; any thread may wait for one."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
