"""Models to fetch, a client of the hub, and a server in the place of an API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakeapi import FakeApi, serving
from fetching import CONFIG, SIZE, Client, safetensors, write
from hub import Hub


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeApi]:
    async with serving(tmp_path) as server:
        yield server


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tiny",
        {
            "config.json": CONFIG,
            "generation_config.json": {},
            "tokenizer.json": {},
            "tokenizer.model": b"spm",
            "chat_template.jinja": b"{{ messages }}",
            "modeling_tiny.py": b"pass\n",
            "model.safetensors": safetensors(1, SIZE),
            "pytorch_model.bin": b"duplicate",
            "tf_model.h5": b"duplicate",
            "flax_model.msgpack": b"duplicate",
            "model.gguf": b"duplicate",
            "onnx/model.onnx": b"duplicate",
            "onnx/config.json": {},
            "original/consolidated.00.pth": b"duplicate",
            "original/params.json": {},
            "README.md": b"# Tiny",
            ".gitattributes": b"*.safetensors filter=lfs",
        },
    )


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    shards = {f"model-0000{number}-of-00002.safetensors": safetensors(number, 100_000) for number in (1, 2)}
    index = {"metadata": {"total_size": 200_000}, "weight_map": {f"w{at}": name for at, name in enumerate(shards)}}
    bins = {f"pytorch_model-0000{number}-of-00002.bin": b"duplicate" for number in (1, 2)}
    return write(
        tmp_path / "sharded",
        {
            **shards,
            **bins,
            "config.json": CONFIG,
            "model.safetensors.index.json": index,
            "pytorch_model.bin.index.json": {"weight_map": dict.fromkeys("ab", next(iter(bins)))},
            "consolidated.safetensors": safetensors(9, 200_000),
            "left-over.safetensors": b"nobody names it",
        },
    )
