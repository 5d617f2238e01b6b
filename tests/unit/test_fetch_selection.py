"""Which files of a repository are brought."""

from __future__ import annotations

import pytest

from vllm_operator.fetch.choice import choose
from vllm_operator.fetch.failures import FetchError
from vllm_operator.fetch.selection import File, Patterns, describes_itself, select
from vllm_operator.report import Reason


def chosen(*paths: str, patterns: Patterns = Patterns()) -> set[str]:  # noqa: B008 - it is frozen
    return {file.path for file in select([File(path, 1) for path in paths], patterns).files}


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ("a.safetensors b.bin c.pt d.gguf", "a.safetensors"),
        ("b.bin c.pt d.gguf", "b.bin"),
        ("c.pt d.gguf", "c.pt"),
        ("d.gguf e.gguf", "d.gguf e.gguf"),
        ("model.safetensors consolidated.safetensors", "model.safetensors"),
        ("consolidated.safetensors params.json", "consolidated.safetensors params.json"),
        ("consolidated.00.pth a.h5 b.msgpack c.onnx d.ot e.ckpt", ""),
        ("optimizer.bin training_args.bin scheduler.pt optimizer.pt rng_state.pth", ""),
        ("sub/a.safetensors b.bin", "b.bin"),
        ("sub/a.safetensors", ""),
        ("a.bin model.safetensors.index.json pytorch_model.bin.index.json", "a.bin pytorch_model.bin.index.json"),
        ("a.safetensors model.safetensors.index.json b.bin.index.json", "a.safetensors model.safetensors.index.json"),
    ],
)
def test_weights_come_in_the_format_that_vllm_takes_first(offered: str, taken: str) -> None:
    assert chosen(*offered.split()) == set(taken.split())


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "preprocessor_config.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "tokenizer.model.v3",
        "tekken.json",
        "qwen.tiktoken",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "configuration_x.py",
        "code/modeling_x.py",
    ],
)
def test_what_belongs_to_a_model_is_brought(path: str) -> None:
    assert chosen(path) == {path}


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "LICENSE",
        ".gitattributes",
        ".hidden/config.json",
        "original/params.json",
        "onnx/config.json",
        "checkpoint-500/config.json",
        "figures/plot.png",
        "model.fp16.safetensors.index.json",
    ],
)
def test_what_vllm_does_not_read_is_left(path: str) -> None:
    assert chosen(path) == set()


def test_sentence_transformers_keep_weights_in_numbered_folders() -> None:
    files = ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"]
    assert chosen(*files) == {"model.safetensors", "2_Dense/config.json"}
    with_modules = {"modules.json", "model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"}
    assert chosen(*files, "modules.json") == with_modules


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), ("original/*", "*.safetensors"), {"config.json", "b.bin"}),
        (("*.json",), (), {"config.json"}),
        (("*.gguf", "config.*"), (), {"config.json", "c.gguf"}),
        (("*",), ("*.bin", "*.safetensors"), {"config.json", "c.gguf"}),
    ],
)
def test_patterns_come_before_formats(include: tuple[str, ...], exclude: tuple[str, ...], taken: set[str]) -> None:
    offered = ("config.json", "a.safetensors", "b.bin", "c.gguf", "original/d.json")
    assert chosen(*offered, patterns=Patterns(include, exclude)) == taken


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ("config.json a.safetensors", True),
        ("params.json consolidated.safetensors", True),
        ("adapter_config.json adapter_model.safetensors", True),
        ("a.gguf", True),
        ("a.safetensors tokenizer.json", False),
        ("sub/config.json a.safetensors", False),
    ],
)
def test_something_says_what_the_model_is(paths: str, *, told: bool) -> None:
    files = [File(path, 1) for path in paths.split()]
    assert describes_itself(select(files, Patterns())) is told


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"{}", "no weight_map"),
        (b'{"weight_map": {"a": 1}}', "no weight_map"),
        (b"nonsense", "no JSON"),
        (b'{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}', "lacks x.safetensors and 1 more"),
        (b'{"weight_map": {"a": "../a.safetensors"}}', "lacks ../a.safetensors"),
    ],
)
def test_an_index_that_fits_no_files_is_refused(index: bytes, says: str) -> None:
    files = [File("a.safetensors", 1), File("model.safetensors.index.json", len(index))]
    with pytest.raises(FetchError, match=says) as caught:
        choose(files, Patterns(), lambda _: index, "org/name")
    assert caught.value.reason is Reason.WEIGHTS
