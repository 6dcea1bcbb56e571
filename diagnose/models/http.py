"""An HTTP client whose every request ends: within a time by the clock, and with an answer of limited size."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import httpx2
from openai import DefaultAsyncHttpxClient

MAX_ANSWER_BYTES = 64 * 2**20
"""Unpacked. The longest answer asked for, 24 samples of 8,192 tokens with log-probabilities, is below 20 MB."""
T = TypeVar("T")


class BoundedClient(DefaultAsyncHttpxClient):
    """httpx2 limits the wait for the next byte, not for the answer, and reads whatever a server sends."""

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds, event_hooks={"response": [_limit]})
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


async def _limit(answer: httpx2.Response) -> None:
    """Called before any body is read, that of a redirection too, and before that is followed."""
    if answer.has_redirect_location:
        asked = answer.request.url
        there = asked.join(answer.headers["location"])
        if there.host != asked.host or (asked.scheme == "https" and there.scheme != "https"):
            raise httpx2.TooManyRedirects(
                f"the server sends requests on to {there.scheme}://{there.host}; prompts would leave with them",
                request=answer.request,
            )
    answer.stream = _Limited(answer.stream, answer.request)


class _Limited(httpx2.AsyncByteStream):
    """The bytes of an answer as they come in, still packed, up to the limit."""

    def __init__(self, stream: Any, request: httpx2.Request) -> None:
        self.stream, self.request = stream, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self.stream:
            seen += len(part)
            if seen > MAX_ANSWER_BYTES:
                raise _too_large(self.request)
            yield part

    async def aclose(self) -> None:
        """Close the connection, or give it back."""
        await self.stream.aclose()


def _too_large(request: httpx2.Request) -> httpx2.DecodingError:
    return httpx2.DecodingError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MB", request=request)


async def _read(answer: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    body = bytearray()
    try:
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise _too_large(request)
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

    def cancel(self) -> None:
        """End all that is waited for, with CancelledError in the threads that wait."""

        def end() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()

        self._loop.call_soon_threadsafe(end)
