"""`size`: how many GPUs a model needs, how to split it over them, what it holds, and what would not work and why."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_operator.errors import UsageError

if TYPE_CHECKING:
    from vllm_operator.sizing.facts import ModelFacts
    from vllm_operator.sizing.gpus import GPU
    from vllm_operator.sizing.tables import Tables
    from vllm_operator.sizing.types import Band, Offer, ParameterCount, Sizing, SizingRequest

EXIT = {"Fits": 0, "Skipped": 0, "Tight": 1, "Estimated": 1, "Refused": 3}
"""Exit code of every verdict; 2 is bad input."""

GIB = 2**30
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla")


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    """Describe the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "size",
        help="say which GPUs a model needs, and why",
        description="Which GPUs a model needs, how it is split, what is left for the KV cache. Needs no cluster. "
        "Exit code 0: it fits; 1: it fits on the optimistic bound, or is estimated; 3: refused; 2: bad input.",
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    parser.add_argument("model_name", nargs="?", metavar="MODEL", help="the same as --model")
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="catalogue name, folder, config.json, JSON, or a size such as 70B")
    model.add_argument("--quantization", help="quantise while loading: fp8, fp8_per_block, fp8_per_channel, ...")
    model.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "half", "float16", "float32"))
    model.add_argument("--language-model-only", action="store_true", help="do not load encoders for images or sound")
    _add_gpu_options(parser.add_argument_group("GPUs"))
    _add_engine_options(parser.add_argument_group("engine"))
    parser.add_argument("-o", "--output", choices=("json", "yaml", "wide"), help="instead of the table")


def _add_gpu_options(group: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    group.add_argument(
        "--gpu", action="append", metavar="NAME[:PER_NODE]", help="product label or short name; repeatable"
    )
    group.add_argument("--all-gpus", action="store_true", help="one line for every product of the table")
    group.add_argument(
        "--gpu-memory", type=_size, metavar="SIZE", help="memory of a product that the table does not know"
    )
    group.add_argument(
        "--tables", metavar="FILE", help="YAML file with further GPUs and models; default: $VLLM_OPERATOR_TABLES"
    )
    group.add_argument("--gpus", type=_positive, help="exactly so many GPUs")
    group.add_argument("--gpus-per-node", type=_positive, help="GPUs of one node; default: the usual number")
    group.add_argument("--nodes", type=_positive, help="exactly so many nodes")
    group.add_argument("--tensor", type=_positive, help="tensor parallel size")
    group.add_argument("--pipeline", type=_positive, help="pipeline parallel size")
    group.add_argument("--expert-parallel", action="store_true", help="whole experts on every GPU")


def _add_engine_options(group: Any) -> None:  # noqa: ANN401 - argparse has no public name for it
    group.add_argument("--max-length", type=_length, default="auto", help="tokens of one request, or auto")
    group.add_argument("--max-sequences", type=_positive, default=256)
    group.add_argument("--max-batched-tokens", type=_positive, default=8192)
    group.add_argument("--memory-utilization", type=_share, default=0.9)
    group.add_argument("--kv-cache-dtype", default="auto", choices=KV_CACHE_DTYPES)
    group.add_argument("--kv-cache-memory", type=_size, metavar="SIZE", help="KV cache a GPU, instead of what is left")
    group.add_argument("--enforce-eager", action="store_true", help="no CUDA graphs")
    group.add_argument("--lora", type=_lora, default=(0, 16), metavar="ADAPTERSxRANK", help="for example 4x64")
    group.add_argument("--speculative-tokens", type=_positive, default=None)
    group.add_argument("--speculative-method", default=None, help="default with --speculative-tokens: ngram")
    group.add_argument("--speculative-model", metavar="MODEL", help="model that drafts: the method is draft_model then")
    group.add_argument("--engine-version", type=_version, default="0.32", help="minor version of vLLM; default 0.32")


def run(args: argparse.Namespace) -> int:
    """Answer on standard output. Raises UsageError for bad input."""
    from vllm_operator.sizing.choose import size  # noqa: PLC0415 - other commands start without it

    tables = _tables(args)
    if args.all_gpus:
        return _run_all(args, tables)
    answer = size(request_of(args, offers_of(args, tables), tables))
    print(_rendered(answer, args))
    return EXIT[answer.verdict]


def _tables(args: argparse.Namespace) -> Tables:
    """Rows of the user's own. The operator's other settings do not matter here, and take a second to read."""
    from vllm_operator.sizing.tables import EMPTY, read_tables  # noqa: PLC0415 - see run

    path = args.tables or os.environ.get("VLLM_OPERATOR_TABLES")
    tables = read_tables(path) if path else EMPTY
    for row in tables.bad:
        print(f"{path}: {row}", file=sys.stderr)
    return tables


def _run_all(args: argparse.Namespace, tables: Tables) -> int:
    from vllm_operator.sizing.choose import assess  # noqa: PLC0415 - see run

    answers = [(offer, assess(request_of(args, (offer,), tables))) for offer in all_offers(args, tables)]
    if args.output in {"json", "yaml"}:
        print(_document([{"gpu": offer.gpu.product, **as_dict(answer)} for offer, answer in answers], args.output))
    else:
        print(_lines(answers))
    return min(EXIT[answer.verdict] for _, answer in answers)


def request_of(args: argparse.Namespace, offers: tuple[Offer, ...], tables: Tables) -> SizingRequest:
    """The request that the options describe."""
    from vllm_operator.sizing.source import model_named  # noqa: PLC0415 - see run
    from vllm_operator.sizing.types import SizingRequest  # noqa: PLC0415 - see run

    name = args.model or args.model_name
    if not name:
        raise UsageError(
            "No model: give --model with a catalogue name, a path of a config.json, or a size such as 70B."
        )
    method = speculative_method(args)

    def known(text: str) -> ModelFacts | ParameterCount:
        return tables.models.get(text.removeprefix("hf://")) or model_named(text)

    return SizingRequest(
        model=known(name),
        offers=offers,
        gpus=args.gpus,
        tensor=args.tensor,
        pipeline=args.pipeline,
        nodes=args.nodes,
        expert=args.expert_parallel,
        max_length=args.max_length,
        max_sequences=args.max_sequences,
        max_batched_tokens=args.max_batched_tokens,
        memory_utilization=args.memory_utilization,
        kv_cache_dtype=args.kv_cache_dtype,
        dtype=args.dtype,
        quantization=args.quantization,
        enforce_eager=args.enforce_eager,
        lora_adapters=args.lora[0],
        lora_rank=args.lora[1],
        speculative_method=method,
        speculative_tokens=args.speculative_tokens or 0,
        draft=known(args.speculative_model) if args.speculative_model else None,
        language_model_only=args.language_model_only,
        engine_version=args.engine_version,
        kv_cache_bytes=args.kv_cache_memory,
    )


def speculative_method(args: argparse.Namespace) -> str | None:
    """How tokens are proposed. Raises UsageError for a draft model of a method that loads none of its own."""
    if not args.speculative_model:
        return args.speculative_method or ("ngram" if args.speculative_tokens else None)
    if args.speculative_method not in {None, "draft_model"}:
        raise UsageError(
            f"--speculative-model goes with the method draft_model: leave it out with {args.speculative_method}, whose "
            "head is counted without its name."
        )
    return "draft_model"


def offers_of(args: argparse.Namespace, tables: Tables) -> tuple[Offer, ...]:
    """The offers that --gpu names; every product of the tables where it names none."""
    if not args.gpu:
        return all_offers(args, tables)
    return tuple(_offer(args, *_named(args, text, tables)) for text in args.gpu)


def all_offers(args: argparse.Namespace, tables: Tables) -> tuple[Offer, ...]:
    """Every product of the tables, on nodes of the usual size."""
    return tuple(_offer(args, gpu, None) for gpu in _known(tables).values())


def _known(tables: Tables) -> Mapping[str, GPU]:
    from vllm_operator.sizing.gpus import gpus  # noqa: PLC0415 - see run

    return {**gpus(), **tables.gpus}


def _named(args: argparse.Namespace, text: str, tables: Tables) -> tuple[GPU, int | None]:
    from vllm_operator.sizing.gpus import lookup, unknown_gpu  # noqa: PLC0415 - see run

    name, _, count = text.partition(":")
    if count and not count.isdigit():
        raise UsageError(f"--gpu {text}: after the colon stands the number of GPUs of one node.")
    gpu = tables.gpu(name) or lookup(name)
    if gpu is None and args.gpu_memory:
        gpu = unknown_gpu(name, args.gpu_memory / GIB)
    if gpu is None:
        known = ", ".join(one.name for one in _known(tables).values())
        raise UsageError(f"--gpu {name} is not in the table: give its --gpu-memory, or one of {known}.")
    return gpu, int(count) if count else None


def _offer(args: argparse.Namespace, gpu: GPU, per_node: int | None) -> Offer:
    from vllm_operator.sizing.types import Offer  # noqa: PLC0415 - see run

    usual = max(gpu.gpus_per_node, default=8)
    each = per_node or args.gpus_per_node or max(usual, args.tensor or 1)
    wanted = args.gpus or (args.tensor or 1) * (args.pipeline or 1)
    return Offer(gpu, each, args.nodes or max(1, -(-wanted // each)))


def _rendered(answer: Sizing, args: argparse.Namespace) -> str:
    from vllm_operator.sizing.explain import table  # noqa: PLC0415 - see run

    if args.output in {"json", "yaml"}:
        return _document(as_dict(answer), args.output)
    return table(answer, wide=args.output == "wide")


def _document(content: object, form: str) -> str:
    if form == "json":
        return json.dumps(content, indent=2)
    import yaml  # noqa: PLC0415 - costs time that JSON and the table need not pay

    return str(yaml.safe_dump(content, sort_keys=False)).rstrip()


def as_dict(answer: Sizing) -> dict[str, Any]:
    """The answer as `-o json` shows it: GiB and tokens; terms are conservative, `bands` has both bounds."""
    return {
        "verdict": str(answer.verdict),
        "reasons": [{"code": reason.code, "message": reason.message} for reason in answer.reasons],
        "gpu": answer.gpu.product if answer.gpu else None,
        "gpus": answer.gpus,
        "tensorParallel": answer.tensor,
        "pipelineParallel": answer.pipeline,
        "nodes": answer.nodes,
        "expertParallel": answer.expert,
        "maxLength": answer.max_length,
        **_memory(answer),
        "kvBytesPerToken": answer.kv_bytes_per_token,
        "kvTokens": _band(answer.kv_tokens, whole=True),
        "maxConcurrency": answer.max_concurrency,
        "nearestFit": answer.nearest_fit,
        "explanation": answer.explanation,
        "rejected": [{"candidate": one.candidate, "code": one.reason.code} for one in answer.rejected],
    }


def _memory(answer: Sizing) -> dict[str, Any]:
    per = answer.per_gpu
    if per is None:
        return {"perGPU": None}
    terms = {"activations": per.activations, "graphs": per.graphs, "other": per.other}
    return {
        "perGPU": {
            "capacity": per.capacity,
            "weights": per.weights,
            **{name: term.high for name, term in terms.items()},
            "kvCache": _band(per.kv_cache),
            "reserve": per.reserve,
            "bands": {name: asdict(term) for name, term in terms.items()},
        }
    }


def _band(band: Band | None, *, whole: bool = False) -> dict[str, float] | None:
    if band is None:
        return None
    return {"low": int(band.low), "high": int(band.high)} if whole else {"low": band.low, "high": band.high}


def _lines(answers: list[tuple[Offer, Sizing]]) -> str:
    """One line a product, the cheapest fit first."""
    rows: list[tuple[str, ...]] = [
        ("GPU", "VERDICT", "GPUS", "TP", "PP", "WEIGHTS", "KV CACHE", "KV TOKENS", "COST", "WHY NOT")
    ]
    ordered = sorted(answers, key=lambda one: (EXIT[one[1].verdict], one[0].gpu.weight * one[1].gpus))
    rows += [_line(offer, answer) for offer, answer in ordered]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _line(offer: Offer, answer: Sizing) -> tuple[str, ...]:
    per, tokens = answer.per_gpu, answer.kv_tokens
    why = answer.reasons[0].code if answer.reasons else ""
    if per is None or tokens is None:
        return (offer.gpu.name, str(answer.verdict), "-", "-", "-", "-", "-", "-", "-", why)
    return (
        offer.gpu.name,
        str(answer.verdict),
        str(answer.gpus),
        str(answer.tensor),
        str(answer.pipeline),
        f"{per.weights:.1f}",
        f"{per.kv_cache.low:.1f}",
        f"{int(tokens.low):,}",
        f"{offer.gpu.weight * answer.gpus:.1f}",
        why,
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _length(text: str) -> int | str:
    return "auto" if text in {"auto", "-1"} else _positive(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and at most 1")
    return value


_UNITS = {"": 1, "k": 1000, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?i?)b?", text.strip().lower())
    if not found or found.group(2) not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 80Gi")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def _lora(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADAPTERSxRANK, for example 4x64")
    return int(found.group(1)), int(found.group(2) or 16)


def _version(text: str) -> str:
    if not re.fullmatch(r"v?0\.\d+(\..*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version of vLLM such as 0.32")
    return text
