"""Repositories that are broken, each in one way, made from the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub import Hub
from images import models

WHOLE, ADAPTER = "acme/whole", "acme/adapter"
UNKNOWN_ARCHITECTURE, UNKNOWN_QUANTIZATION = "acme/unknown-architecture", "acme/unknown-quantization"
OWN_CODE = "acme/own-code"
"""Comes with Python code, and with a tokenizer that is none."""

GATED, READER_TOKEN, MEMBER_TOKEN = "acme/gated", "hf_reader", "hf_member"
"""A repository that one token may not read and another may."""

_OWN_CONFIG = '''"""What a model's authors may put beside their weights."""

from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own-llama"
'''

Edit = Callable[[dict[str, Any]], object]


def offer(hub: Hub, folder: Path) -> None:
    """Let the hub serve all of them; their files are made in `folder`."""
    models.tiny_llama(folder / WHOLE)
    models.lora_adapter(folder / ADAPTER, seed=1)
    changes: dict[str, Edit] = {
        UNKNOWN_ARCHITECTURE: lambda config: config.update(architectures=["NopeForCausalLM"]),
        UNKNOWN_QUANTIZATION: lambda config: config.update(quantization_config={"quant_method": "nope"}),
        OWN_CODE: lambda config: config.update(
            model_type="own-llama", auto_map={"AutoConfig": "configuration_own.OwnConfig"}
        ),
        GATED: lambda _config: None,
    }
    for name, change in changes.items():
        _copy(folder, name, change)
    (folder / OWN_CODE / "configuration_own.py").write_text(_OWN_CONFIG)
    (folder / OWN_CODE / "tokenizer.json").write_text('{"version": "1.0"}\n')
    for name in (WHOLE, ADAPTER, *changes):
        hub.add(name, folder / name)
    hub.add(GATED, folder / GATED, gated=True, token=MEMBER_TOKEN)
    hub.tokens.add(READER_TOKEN)


def _copy(folder: Path, name: str, change: Edit) -> None:
    """Make a repository like the whole one, but for its config.json."""
    shutil.copytree(folder / WHOLE, folder / name)
    config = folder / name / "config.json"
    content = json.loads(config.read_text())
    change(content)
    config.write_text(json.dumps(content))
