"""Runs `vllm-operator fetch` as a process against a hub, and makes models to fetch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hub import Hub, Seen
from operator_process import python_environment
from vllm_operator.report import LIMIT, Failed, Fetched, Inspected, parse_report

TOKEN, STRANGER = "hf_TheRightToken", "hf_SomebodyElse"
MEBI = 2**20
WEIGHTS = "name=model.safetensors"  # in the address that requests for the weights are redirected to
SIZE = 3 * MEBI + 17
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "vocab_size": 256}

NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "modeling_tiny.py",
    "model.safetensors",
}


@dataclass(frozen=True)
class Done:
    """A run of the command that ended."""

    code: int
    out: str
    err: str
    text: str

    @property
    def report(self) -> Fetched | Inspected | Failed:
        return parse_report(self.text)

    @property
    def failure(self) -> Failed:
        assert isinstance(self.report, Failed), self
        return self.report


class Client:
    """Runs the command against a hub, with a cache of its own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.home, self.report = hub, folder / "cache", folder / "report.json"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            **python_environment(),
            "HOME": "/nonexistent",
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.endpoint,
        }

    def command(self, source: str, *args: str) -> list[str]:
        return [sys.executable, "-m", "vllm_operator", "fetch", source, "--report", str(self.report), *args]

    def start(self, source: str, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(source, *args),
            env=self.environment | env,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, source: str, *args: str, inside: Sequence[str] = (), **env: str) -> Done:
        """The command's end; no output of it may hold a token."""
        self.report.unlink(missing_ok=True)
        argv = [*inside, *self.command(source, *args)]
        ended = subprocess.run(
            argv, env=self.environment | env, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )
        text = self.report.read_text(encoding="utf-8") if self.report.exists() else ""
        assert len(text.encode()) <= LIMIT
        for token in (TOKEN, STRANGER):
            assert token not in ended.stdout + ended.stderr + text
        assert "Traceback" not in ended.stderr, ended.stderr
        return Done(ended.returncode, ended.stdout, ended.stderr, text)

    def snapshot(self, name: str, commit: str) -> Path:
        return self.home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / commit

    def blobs(self, name: str) -> Path:
        return self.home / "hub" / f"models--{name.replace('/', '--')}" / "blobs"

    def partial(self, name: str) -> Path | None:
        return next(self.blobs(name).glob("*.incomplete"), None)

    def content_requests(self) -> list[Seen]:
        return self.hub.requests(WEIGHTS)


def safetensors(seed: int, size: int) -> bytes:
    """A safetensors file of about `size` bytes that holds one tensor."""
    data = size - size % 2
    header = json.dumps({"weight": {"dtype": "F16", "shape": [data // 2], "data_offsets": [0, data]}}).encode()
    return (
        len(header).to_bytes(8, "little")
        + header
        + bytes((seed + index) % 251 for index in range(251)) * (data // 251)
        + bytes(data % 251)
    )


def write(folder: Path, files: dict[str, bytes | object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def held_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def matches(source: Path, snapshot: Path) -> bool:
    return all((snapshot / name).read_bytes() == (source / name).read_bytes() for name in held_in(snapshot))
