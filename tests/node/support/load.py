"""Steady load on a service by clients of every kind; each request is tried once, and its answer is known beforehand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import AsyncOpenAI

# Long enough that some are under way whatever happens, short enough that many are made.
PLAIN_TOKENS, STREAM_TOKENS = 16, 96
PROMPTS = ("What is a pod?", "Name three planets.", "Count to ten.", "Why is the sky blue?")
_TIMEOUT = 120.0
_JOIN_SECONDS = 180.0

Ask = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: who made it, when it ended, how long it took (s), and what was wrong with it."""

    client: str
    ended: float
    seconds: float
    failure: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What a part of the load came to; `slowest` in seconds."""

    requests: int
    failures: list[Outcome]
    slowest: float
    clients: Mapping[str, int]

    def __str__(self) -> str:
        """One line for people."""
        made = ", ".join(f"{name} {count}" for name, count in sorted(self.clients.items()))
        return f"{self.requests} requests, {len(self.failures)} failed, slowest {self.slowest:.1f} s ({made})"


def body(model: str, prompt: str, *, stream: bool) -> dict[str, Any]:
    """A greedy chat request of a fixed length."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": STREAM_TOKENS if stream else PLAIN_TOKENS,
        "stream": stream,
    }


async def plain(client: httpx.AsyncClient, model: str, prompt: str) -> str:
    """The text of an answer in one piece."""
    answer = await client.post("/v1/chat/completions", json=body(model, prompt, stream=False))
    answer.raise_for_status()
    (choice,) = answer.json()["choices"]
    return _whole(choice["finish_reason"], choice["message"]["content"])


async def streamed(client: httpx.AsyncClient, model: str, prompt: str) -> str:
    """The text of an answer event by event; it must end with [DONE]."""
    parts, finish, ended = [], None, False
    async with client.stream("POST", "/v1/chat/completions", json=body(model, prompt, stream=True)) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                ended = True
            elif data:
                (choice,) = json.loads(data)["choices"]
                parts.append(choice["delta"].get("content") or "")
                finish = choice["finish_reason"] or finish
    assert ended, "the stream broke off"
    return _whole(finish, "".join(parts))


async def sdk_plain(client: AsyncOpenAI, model: str, prompt: str) -> str:
    """The same with the OpenAI SDK."""
    answer = await client.chat.completions.create(**body(model, prompt, stream=False))
    (choice,) = answer.choices
    return _whole(choice.finish_reason, choice.message.content)


async def sdk_streamed(client: AsyncOpenAI, model: str, prompt: str) -> str:
    """A stream with the OpenAI SDK."""
    parts, finish = [], None
    async for event in await client.chat.completions.create(**body(model, prompt, stream=True)):
        (choice,) = event.choices
        parts.append(choice.delta.content or "")
        finish = choice.finish_reason or finish
    return _whole(finish, "".join(parts))


def _whole(finish: str | None, text: str) -> str:
    assert finish == "length", f"ended because of {finish}"
    return text


@asynccontextmanager
async def clients(url: str, model: str) -> AsyncIterator[dict[str, Ask]]:
    """Ways to ask: on connections that are kept in a pool, with the SDK, and on a new connection each time."""

    def fresh(ask: Callable[[httpx.AsyncClient, str, str], Awaitable[str]]) -> Ask:
        async def once(prompt: str) -> str:
            async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as client:
                return await ask(client, model, prompt)

        return once

    async with (
        httpx.AsyncClient(base_url=url, timeout=_TIMEOUT) as pool,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=_TIMEOUT) as sdk,
    ):
        yield {
            "kept": lambda prompt: plain(pool, model, prompt),
            "kept stream": lambda prompt: streamed(pool, model, prompt),
            "SDK": lambda prompt: sdk_plain(sdk, model, prompt),
            "SDK stream": lambda prompt: sdk_streamed(sdk, model, prompt),
            "fresh": fresh(plain),
            "fresh stream": fresh(streamed),
        }


async def _undisturbed(url: str, model: str) -> dict[tuple[str, bool], str]:
    async with clients(url, model) as asks:
        return {
            (prompt, stream): await asks["kept stream" if stream else "kept"](prompt)
            for prompt in PROMPTS
            for stream in (False, True)
        }


@dataclass(slots=True)
class Load:
    """Workers that ask all the time, in a thread of their own, from `start` to `stop`.

    Half of them pause between two requests, so that their connections lie in the pool for a while.
    """

    url: str
    model: str
    outcomes: list[Outcome] = field(default_factory=list)
    _expected: dict[tuple[str, bool], str] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Ask each prompt once while nothing else goes on, for the answers; then go on asking."""
        self._expected = asyncio.run(_undisturbed(self.url, self.model))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let every request that is under way end."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)
            assert not self._thread.is_alive(), "a request never ends"

    def since(self, mark: int) -> Figures:
        """What came of the requests that ended after `mark` others had."""
        found = self.outcomes[mark:]
        slowest = max((one.seconds for one in found), default=0.0)
        failures = [one for one in found if one.failure]
        return Figures(len(found), failures, slowest, Counter(one.client for one in found))

    async def _run(self) -> None:
        async with clients(self.url, self.model) as asks, asyncio.TaskGroup() as workers:
            for number, (name, ask) in enumerate(asks.items()):
                workers.create_task(self._work(name, ask, 0.2))
                workers.create_task(self._work(name, ask, 1.0 + 0.5 * number))

    async def _work(self, client: str, ask: Ask, pause: float) -> None:
        count = 0
        while not self._ending.is_set():
            prompt = PROMPTS[count % len(PROMPTS)]
            count += 1
            began = time.monotonic()
            failure = await self._failure(ask, prompt, stream="stream" in client)
            ended = time.monotonic()
            self.outcomes.append(Outcome(client, ended, ended - began, failure))
            await asyncio.sleep(pause)

    async def _failure(self, ask: Ask, prompt: str, *, stream: bool) -> str:
        """What went wrong; empty when the answer is the one that was given before."""
        try:
            text = await ask(prompt)
        except Exception as error:  # noqa: BLE001 - whatever a client sees is a failed request
            return f"{type(error).__name__}: {error}"
        expected = self._expected[prompt, stream]
        return "" if text == expected else f"another answer: {text!r} instead of {expected!r}"
