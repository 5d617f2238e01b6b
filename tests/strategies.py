"""Hypothesis strategies for resources: `valid_specs()` draws what `parse_spec` and the API server both accept,
`spoilt_specs()` what both must say the same to.

What Kubernetes itself defines (pod template, peers, behaviour, fieldRef) is drawn from well-formed examples, so that
what is rendered from a spec is valid too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from vllm_operator.api.engine_spec import RESERVED_ENV
from vllm_operator.api.feature_spec import DRAFT_METHODS, DRAFTLESS_METHODS, LORA_RANKS
from vllm_operator.api.fields import SUBDOMAIN
from vllm_operator.api.model_spec import QUANTIZATIONS

Spec = dict[str, Any]

_DIGEST = "@sha256:" + "0123456789abcdef" * 4
_GPUS = ("NVIDIA-L4", "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3", "AMD_Instinct_MI300X_OAM", "Some-New_GPU.v2")
_MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b", "acme/assistant-7b")
_POD_TEMPLATES: tuple[Mapping[str, Any], ...] = (
    {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "x: y # z"}}},
    {"spec": {"nodeSelector": {"zone": "a"}, "priorityClassName": "inference"}},
    {"spec": {"tolerations": [{"key": "dedicated", "operator": "Exists"}], "hostAliases": None}},
    {"spec": {"containers": [{"name": "log", "image": "ghcr.io/acme/log:1.0"}]}},
)
# Something in every list that is merged, to be spoilt.
_RICH_POD_TEMPLATE: Mapping[str, Any] = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}},
    "spec": {
        "nodeSelector": {"zone": "a"},
        "securityContext": {"runAsUser": 7, "$retainKeys": ["runAsUser"]},
        "affinity": {"nodeAffinity": {"$patch": "replace"}},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}],
        "imagePullSecrets": [{"name": "pull"}, {"name": "other", "$patch": "delete"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}],
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "volumes": [{"name": "ca", "secret": {"secretName": "ca"}}, {"$patch": "delete", "name": "shm"}],
        "initContainers": [{"name": "first", "image": "ghcr.io/acme/first:1.0"}],
        "containers": [
            {
                "name": "vllm",
                "env": [{"name": "A", "value": "b"}, {"name": "HOME", "$patch": "delete"}],
                "ports": [{"containerPort": 9000}],
                "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
                "resources": {"limits": {"cpu": "2"}},
            },
            {"name": "vllm", "env": [{"name": "A", "value": "c"}]},
        ],
    },
}
_PEERS: tuple[Mapping[str, Any], ...] = (
    {"podSelector": {}},
    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
)
_BEHAVIORS: tuple[Mapping[str, Any], ...] = (
    {},
    {"scaleDown": {"stabilizationWindowSeconds": 60}},
    {"scaleUp": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}]}},
)
_FACTS: tuple[Mapping[str, Any], ...] = (
    {"parameters": 7.6},
    {"parameters": 70, "bytesPerParameter": 1},
    {"model_type": "llama", "hidden_size": 4096},
    {"rope_scaling": None, "layer_types": ["full_attention"], "nested": {"deep": [1.5, "x", False]}},
)

# YAML, templates and shells all meet these strings on their way: nothing printable or odd may break them.
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_words = st.text("abcXYZ019", min_size=1, max_size=8)
_object_names = st.from_regex(SUBDOMAIN, fullmatch=True).filter(lambda name: len(name) <= 63)
_label_names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
_keys = st.from_regex(r"[-._a-zA-Z0-9]{1,20}", fullmatch=True)
_hub_ids = st.one_of(
    st.sampled_from(_MODELS),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True),
)
_hub_addresses = _hub_ids.map(lambda name: f"hf://{name}")
_quantities: st.SearchStrategy[int | str] = st.one_of(
    st.integers(1, 2**40),
    st.from_regex(r"[1-9][0-9]{0,3}(\.[0-9]{1,2})?([KMGT]i|[kMGT]|[eE][0-9])?", fullmatch=True),
    st.sampled_from(("0.5Ti", "80Gi", "24564Mi")),
)
_images = st.sampled_from(
    ("vllm/vllm-openai:v0.32.0", "registry.example:5000/team/vllm:0.31.1-cu130", f"ghcr.io/acme/vllm{_DIGEST}")
)


def some(required: Mapping[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[Spec]:  # noqa: ANN401
    """Objects with all `required` and any of the `optional` fields; plain values stand for themselves."""

    def strategies(fields: Mapping[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
        return {
            name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fields.items()
        }

    return st.fixed_dictionaries(strategies(required or {}), optional=strategies(optional))


def or_auto(low: int, high: int) -> st.SearchStrategy[int | str]:
    """`auto` or a whole number."""
    return st.one_of(st.just("auto"), st.integers(low, high))


def _other_sources() -> st.SearchStrategy[str]:
    path = st.sampled_from(("", "/models/llama", "/a.b/c_d/E=1"))
    return st.one_of(
        st.tuples(_object_names, path).map(lambda parts: f"pvc://{parts[0]}{parts[1]}"),
        path.map(lambda suffix: f"s3://acme-models{suffix}/"),
        st.just(f"oci://registry.example:5000/models/llama{_DIGEST}"),
    )


def _models() -> st.SearchStrategy[Spec]:
    common: dict[str, Any] = {
        "servedNames": st.lists(
            st.from_regex(r"[A-Za-z0-9_./:@+][-A-Za-z0-9_./:@+]{0,20}", fullmatch=True), max_size=3, unique=True
        ),
        "maxLength": or_auto(1, 262_144),
        "quantization": st.sampled_from(QUANTIZATIONS),
        "dtype": st.sampled_from(("auto", "bfloat16", "float16", "float32")),
        "trustRemoteCode": st.booleans(),
        "facts": st.sampled_from(_FACTS),
    }
    globs = st.lists(st.sampled_from(("*.json", "*.safetensors", "original/*", "a b/**")), max_size=3)
    hub = {
        "revision": st.sampled_from(("main", "v1.0", "refs/pr/3", "0e9e39f249a16976918f6564b8830bc894c89659")),
        "tokenSecretRef": some({"name": _object_names}, key=_keys),
        "files": some(include=globs, exclude=globs),
    }
    return st.one_of(some({"source": _hub_addresses}, **common, **hub), some({"source": _other_sources()}, **common))


def _variables() -> st.SearchStrategy[list[Spec]]:
    names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True).filter(lambda name: name not in RESERVED_ENV)
    selector = some({"name": _object_names, "key": _keys}, optional=st.booleans())
    source = st.one_of(
        some({"secretKeyRef": selector}),
        some({"configMapKeyRef": selector}),
        some({"fieldRef": {"fieldPath": "status.podIP"}}),
    )
    variable = st.one_of(some({"name": names}, value=_texts), some({"name": names, "valueFrom": source}))
    return st.lists(variable, max_size=3, unique_by=lambda one: str(one["name"]))


def _speculative() -> st.SearchStrategy[Spec]:
    tokens = st.integers(1, 32)
    shortest, longest = st.integers(1, 8), st.integers(8, 64)
    return st.one_of(
        some(method=st.sampled_from(DRAFTLESS_METHODS), tokens=tokens),
        some({"method": "ngram"}, tokens=tokens, promptLookupMin=shortest, promptLookupMax=longest),
        some({"method": st.sampled_from(DRAFT_METHODS), "model": _hub_addresses}, tokens=tokens),
    )


def _lora() -> st.SearchStrategy[Spec]:
    adapter = some({"name": _label_names, "source": _hub_addresses})
    adapters = st.lists(adapter, min_size=1, max_size=3, unique_by=lambda one: str(one["name"]))
    return some({"adapters": adapters}, maxRank=st.sampled_from(LORA_RANKS))


def _engines() -> st.SearchStrategy[Spec]:
    parser = some({"parser": st.sampled_from(("hermes", "qwen3", "openai", "llama3_json"))})
    common: dict[str, Any] = {
        "profile": st.sampled_from(("Balanced", "Throughput", "Latency", "LongContext")),
        "maxSequences": st.integers(1, 1024),
        "maxBatchedTokens": st.integers(1024, 65_536),
        "extraArgs": st.lists(st.one_of(st.sampled_from(("--seed", "0")), _texts), max_size=3),
        "env": _variables(),
    }
    vllm = some(
        image=_images,
        kvCacheDtype=st.sampled_from(("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")),
        kvCacheMemory=_quantities,
        kvOffload=some({"size": _quantities}),
        maxQueuedRequests=st.integers(0, 10_000),
        maxQueuedTokens=st.integers(0, 10_000_000),
        prefixCaching=st.booleans(),
        enforceEager=st.booleans(),
        speculative=_speculative(),
        lora=_lora(),
        structuredOutputs=st.one_of(
            some(backend=st.sampled_from(("auto", "xgrammar", "guidance"))),
            some({"backend": st.sampled_from(("xgrammar", "guidance"))}, disableAnyWhitespace=st.booleans()),
        ),
        toolCalling=parser,
        reasoning=parser,
        **common,
    )
    command = st.lists(st.one_of(_words, _texts.filter(bool)), min_size=1, max_size=3)
    return st.one_of(vllm, some({"image": _images, "command": command}, **common))


def _gpus() -> st.SearchStrategy[Spec]:
    utilization = st.integers(1, 100).map(lambda percent: percent / 100)
    some_gpu = some(
        product=st.sampled_from(_GPUS),
        count=or_auto(1, 64),
        memory=_quantities,
        memoryUtilization=utilization,
        resourceName=st.sampled_from(("nvidia.com/gpu", "amd.com/gpu", "example.com/my-gpu.shared")),
    )
    return st.one_of(some_gpu, some({"count": 0}, memoryUtilization=utilization))


def _caches() -> st.SearchStrategy[Spec]:
    mode = st.sampled_from(("ReadWriteMany", "ReadWriteOnce"))
    return st.one_of(
        some(
            size=st.one_of(st.just("auto"), _quantities),
            storageClassName=st.one_of(st.just(""), _object_names),
            accessMode=mode,
            reclaimPolicy=st.sampled_from(("Retain", "Delete")),
            preload=st.booleans(),
        ),
        some({"claimName": _object_names}, accessMode=mode, preload=st.booleans()),
        some({"ephemeral": True}),
    )


def _autoscaling() -> st.SearchStrategy[Spec]:
    return some(
        {"maxReplicas": st.integers(5, 1000)},
        minReplicas=st.integers(1, 5),
        metric=st.sampled_from(("InFlight", "Waiting", "KVCacheUsage")),
        target=st.integers(1, 100),
        provider="HPA",
        behavior=st.sampled_from(_BEHAVIORS),
    )


def _services() -> st.SearchStrategy[Spec]:
    keys = st.sampled_from(("example.com/internal", "note", "a.b/c_d"))
    return some(
        type=st.sampled_from(("ClusterIP", "LoadBalancer", "NodePort")),
        port=st.integers(1, 65_535),
        annotations=st.dictionaries(keys, _texts, max_size=2),
    )


def _anything() -> st.SearchStrategy[Spec]:
    """Specs whose objects are valid one by one, though they may contradict each other."""
    return some(
        {"model": _models()},
        gpu=_gpus(),
        parallelism=some(tensor=or_auto(1, 64), pipeline=or_auto(1, 64), nodes=or_auto(1, 16), expert=st.booleans()),
        sizing=some(mode=st.sampled_from(("Strict", "Advisory", "Off"))),
        engine=_engines(),
        replicas=st.integers(0, 1000),
        autoscaling=_autoscaling(),
        cache=_caches(),
        service=_services(),
        auth=some({"apiKeySecretRef": some({"name": _object_names}, key=_keys)}),
        monitoring=some(podMonitor=st.booleans(), rules=st.booleans(), dashboard=st.booleans()),
        rollout=some(spareGPU=st.booleans()),
        lifecycle=some(
            startupTimeoutSeconds=st.integers(60, 86_400),
            drainSeconds=st.integers(0, 3600),
            preStopSeconds=st.integers(0, 300),
        ),
        networkPolicy=st.one_of(st.just({}), some({"from": st.lists(st.sampled_from(_PEERS), max_size=2)})),
        podTemplate=st.sampled_from(_POD_TEMPLATES),
        suspend=st.booleans(),
    )


def _reconciled(spec: Spec) -> Spec:
    """The spec without the fields that contradict others."""
    settled = dict(spec)
    if "autoscaling" in settled:
        settled.pop("replicas", None)
    if settled.get("gpu", {}).get("count") == 0:
        settled.pop("parallelism", None)
        settled["engine"] = {key: value for key, value in settled.get("engine", {}).items() if key != "kvOffload"}
    if settled.get("sizing", {}).get("mode") == "Off" and settled.get("gpu", {}).get("count", "auto") == "auto":
        settled.pop("sizing")
    if not settled["model"]["source"].startswith("hf://"):
        settled.pop("cache", None)
    if settled.get("cache", {}).get("accessMode") == "ReadWriteOnce":
        settled.pop("replicas", None)
        settled.pop("autoscaling", None)
    return _without_clashing_names(_with_a_batch_for_adapters(settled))


def _with_a_batch_for_adapters(spec: Spec) -> Spec:
    """With adapters, a batch must hold all that is proposed for all its sequences."""
    engine = spec.get("engine", {})
    if "lora" in engine and "speculative" in engine:
        return {**spec, "engine": {key: value for key, value in engine.items() if key != "maxBatchedTokens"}}
    return spec


def _without_clashing_names(spec: Spec) -> Spec:
    served = spec["model"].get("servedNames", [])
    adapters = spec.get("engine", {}).get("lora", {}).get("adapters", [])
    if any(adapter["name"] in served for adapter in adapters):
        return {**spec, "model": {key: value for key, value in spec["model"].items() if key != "servedNames"}}
    return spec


def resource_names() -> st.SearchStrategy[str]:
    """Names that the API server takes for a resource: DNS subdomains of up to 253 characters."""
    long = st.lists(_object_names, min_size=4, max_size=8).map(lambda parts: ".".join(parts)[:253].rstrip("-."))
    return st.one_of(_object_names, long)


def valid_specs() -> st.SearchStrategy[Spec]:
    """Specs as a user writes them: every field is there at times, every rule holds."""
    return _anything().map(_reconciled)


_JUNK: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2.5, 100, 10**6, 10**12, "", "auto", "Off", "0.9", "x y", "é", "\n", "hf://a/b", "pvc://c",
    "A" * 600, [], {}, ["a"], [None], ["a", "a"], {"a": 1}, {"key": "x"}, {"name": "a"}, [{"name": "a"}],
)  # fmt: skip
# What only a strategic merge could make something of.
_MISDIRECTIONS: tuple[Any, ...] = (
    {"$patch": "merge"}, {"$patch": None}, {"$patch": "replace"}, {"$retainKeys": True}, [{"$patch": "delete"}],
    [{"name": ["a"]}], [{"name": {}}], [{"name": "a"}, {"name": "a"}],
)  # fmt: skip


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:  # noqa: ANN401 - any part
    """Where a value stands, for each value inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in inside for place in ((*path, key), *_places(child, (*path, key)))]


def _with(value: Any, path: tuple[str | int, ...], new: object) -> Any:  # noqa: ANN401 - any part of a spec
    """A copy of `value` in which `new` stands at `path`."""
    if not path:
        return copy.deepcopy(new)
    changed = copy.copy(value)
    changed[path[0]] = _with(value[path[0]], path[1:], new)
    return changed


def _spoilt(draw: st.DrawFn, value: Any, times: int, junk: Sequence[Any] = _JUNK) -> Any:  # noqa: ANN401 - as drawn
    for _ in range(times):
        if places := _places(value):
            value = _with(value, draw(st.sampled_from(places)), draw(st.sampled_from(junk)))
    return value


@st.composite
def spoilt_specs(draw: st.DrawFn) -> Spec:
    """Valid specs in which one or two values were replaced by something odd: most are invalid, some are not."""
    spec: Spec = _spoilt(draw, draw(valid_specs()), draw(st.integers(1, 2)))
    return spec


@st.composite
def spoilt_pod_templates(draw: st.DrawFn) -> Mapping[str, Any]:
    """Pod templates in which a few values were replaced by something odd, whatever the API server would say of it."""
    template: Mapping[str, Any] = _spoilt(draw, _RICH_POD_TEMPLATE, draw(st.integers(1, 4)), (*_JUNK, *_MISDIRECTIONS))
    return template
