"""What a VLLMDeployment of a model that no table knows serves, through its Service, to the clients that people use.

The whole way is real: a hub, `kubectl apply`, the Jobs that look at the model and fetch it, vLLM offline on a read-only
cache. One server has every feature that the tiny model can show. It asks for a GPU, which the node claims to have, and
so is sized; its image is that of vLLM's CPU build.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, NotFoundError, OpenAI
from pydantic import SecretStr

from localcluster.access import ClusterAccess
from localcluster.cluster import Cluster
from localcluster.wait import wait_for
from node.support import events, metrics
from node.support.served import MAX_LENGTH, Served, serve, tiny
from node.support.stage import ADAPTERS, Stage, offer_models, on_stage
from node.support.vllm_stories import CPU_IMAGE

pytestmark = pytest.mark.real_node

MODEL = "tiny"
ADAPTER_NAMES = tuple(one.partition("/")[2] for one in ADAPTERS)
FEATURES = {
    "lora": {
        "maxRank": 8,
        "adapters": [
            {"name": name, "source": f"hf://{one}"} for name, one in zip(ADAPTER_NAMES, ADAPTERS, strict=True)
        ],
    },
    "speculative": {"method": "ngram", "tokens": 3, "promptLookupMax": 4, "promptLookupMin": 2},
    # A model of random weights may write blanks for as long as a grammar lets it.
    "structuredOutputs": {"backend": "xgrammar", "disableAnyWhitespace": True},
    "toolCalling": {"parser": "hermes"},
    "prefixCaching": True,
    "maxQueuedRequests": 2,
}
PRODUCT = "NVIDIA-L4"
QUESTION: Any = [{"role": "user", "content": "What is a pod?"}]
TOKENS = 24
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS}
CHAT = GREEDY | {"messages": QUESTION}
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["Pod", "Job", "Service"]},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 9},
        "ready": {"type": "boolean"},
    },
    "required": ["kind", "replicas", "ready"],
    "additionalProperties": False,
}
SCALE: Any = {
    "type": "function",
    "function": {
        "name": "scale",
        "strict": True,  # else vLLM 0.32 holds the arguments to be JSON, whatever the parameters say
        "description": "Change the number of replicas.",
        "parameters": {
            "type": "object",
            "properties": {"replicas": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["replicas"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def stage(cluster: ClusterAccess) -> Iterator[Stage]:
    assert isinstance(cluster, Cluster)
    cluster.set_gpus(PRODUCT, 1)
    with on_stage(cluster, "serving") as made:
        yield made
    cluster.set_gpus(PRODUCT, 0)


@pytest.fixture(scope="module")
def commit(stage: Stage, tiny_model: Path) -> str:
    """The commit of the model on the hub."""
    return offer_models(stage.hub, tiny_model)


@pytest.fixture(scope="module")
def served(stage: Stage, commit: str) -> Served:
    assert commit
    wanted = tiny(stage, MODEL, FEATURES | {"image": CPU_IMAGE})
    wanted["spec"]["gpu"] = {"product": PRODUCT, "count": 1}
    return serve(stage, wanted)


@pytest.fixture(scope="module")
def openai(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def answer(served: Served, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """POST a request without a client library and return the decoded answer."""
    found = httpx.post(f"{served.url}{path}", json=body, timeout=120)
    assert found.status_code == 200, found.text
    decoded: dict[str, Any] = found.json()
    return decoded


def chatted(served: Served, **changes: Any) -> str:  # noqa: ANN401 - any JSON
    text: str = answer(served, "/v1/chat/completions", **(CHAT | changes))["choices"][0]["message"]["content"]
    return text


def test_a_model_that_no_table_knows_is_looked_at_fetched_and_served_offline(
    stage: Stage, served: Served, commit: str
) -> None:
    status = served.status
    assert status["model"]["commit"] == commit
    assert status["model"]["architecture"] == "LlamaForCausalLM"
    assert status["model"]["maxLength"] == MAX_LENGTH
    assert status["endpoint"] == f"http://{MODEL}.{stage.namespace}.svc/v1"
    assert status["engine"]["args"] == served.container["args"]
    assert commit in status["engine"]["args"]
    environment = {one["name"]: one.get("value") for one in served.container["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"
    (models,) = [one for one in served.container["volumeMounts"] if one["mountPath"] == "/models"]
    assert models["readOnly"] is True


def test_status_holds_the_predicted_kv_cache_beside_the_one_that_vllm_measured(served: Served) -> None:
    measured = wait_for(lambda: served.status["sizing"].get("measured"), 60, "the KV cache was measured")
    said = metrics.labels(served.url, "vllm:cache_config_info")
    assert measured["kvTokens"] == int(said["kv_cache_size_tokens"]) > MAX_LENGTH
    assert served.condition("Sized")["reason"] == "Fits"
    predicted = served.status["sizing"]["predicted"]
    assert predicted["kvTokensLow"] <= measured["kvTokens"] <= predicted["kvTokensHigh"]
    assert measured["driftPercent"] == 0


def test_raw_http_chat_and_completion(served: Served) -> None:
    chat = answer(served, "/v1/chat/completions", **CHAT)
    assert chat["model"] == MODEL
    assert chat["usage"]["completion_tokens"] == TOKENS
    assert chat["choices"][0]["finish_reason"] == "length"
    completion = answer(served, "/v1/completions", prompt="A pod is", **GREEDY)
    assert len(completion["choices"][0]["text"]) == TOKENS, "a token of the tiny model is a character"


def test_raw_events_arrive_one_by_one_and_are_the_whole_answer(served: Served) -> None:
    chunks = events.chunks(f"{served.url}/v1/chat/completions", CHAT | {"stream": True})
    texts = [one["choices"][0]["delta"].get("content") or "" for one in chunks]
    assert "".join(texts) == chatted(served)
    assert sum(map(bool, texts)) > TOKENS / 4, f"few pieces: {texts}"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_the_service_is_found_by_its_name_in_the_cluster(served: Served, stage: Stage) -> None:
    url = f"http://{MODEL}.{stage.namespace}.svc/v1/models"
    said = served.run("python3", "-c", f"import urllib.request as r; print(r.urlopen('{url}').read().decode())")
    assert {one["id"] for one in json.loads(said)["data"]} == {MODEL, *ADAPTER_NAMES}


def test_models_are_listed_with_the_parent_of_each_adapter(openai: OpenAI) -> None:
    listed = {one.id: one.model_dump() for one in openai.models.list()}
    assert listed.keys() == {MODEL, *ADAPTER_NAMES}
    assert listed[MODEL]["max_model_len"] == MAX_LENGTH
    assert {listed[name]["parent"] for name in ADAPTER_NAMES} == {MODEL}


def test_what_the_model_cannot_do_is_not_found(served: Served, openai: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        openai.embeddings.create(model=MODEL, input="pod")
    with pytest.raises(NotFoundError, match="`other` does not exist"):
        openai.chat.completions.create(model="other", messages=QUESTION)
    refused = httpx.post(f"{served.url}/v1/embeddings", json={"model": MODEL, "input": "pod"})
    assert refused.status_code == 404


def test_the_openai_sdk(openai: OpenAI, served: Served) -> None:
    chat = openai.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=TOKENS)
    assert chat.choices[0].message.content == chatted(served)
    stream = openai.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=TOKENS, stream=True
    )
    assert "".join(one.choices[0].delta.content or "" for one in stream) == chatted(served)
    completion = openai.completions.create(model=MODEL, prompt="A pod is", temperature=0, max_tokens=TOKENS)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == TOKENS


async def test_the_asynchronous_openai_sdk(served: Served) -> None:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        chat = await client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=TOKENS)
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=TOKENS, stream=True
        )
        pieces = [one.choices[0].delta.content or "" async for one in stream]
    assert "".join(pieces) == chat.choices[0].message.content == chatted(served)


def test_langchain(served: Served) -> None:
    chat = ChatOpenAI(
        model=MODEL,
        base_url=f"{served.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=TOKENS,
        max_retries=0,
    )
    assert chat.invoke(QUESTION[0]["content"]).content == chatted(served)
    pieces = [str(one.content) for one in chat.stream(QUESTION[0]["content"])]
    assert "".join(pieces) == chatted(served)
    assert len(pieces) > 1


def test_adapters_answer_differently(served: Served) -> None:
    answers = {name: chatted(served, model=name) for name in (MODEL, *ADAPTER_NAMES)}
    assert len(set(answers.values())) == 3, answers


def test_structured_output_obeys_its_schema(openai: OpenAI) -> None:
    chat = openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=1,
        seed=7,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "workload", "schema": SCHEMA, "strict": True}},
    )
    assert chat.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(chat.choices[0].message.content or ""), SCHEMA)


def test_a_tool_is_called_with_arguments_that_obey_its_schema(openai: OpenAI) -> None:
    chat = openai.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[SCALE],
        tool_choice={"type": "function", "function": {"name": "scale"}},
        temperature=0,
        max_tokens=200,
    )
    (call,) = chat.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "scale"
    jsonschema.validate(json.loads(call.function.arguments), SCALE["function"]["parameters"])


def test_the_model_may_choose_a_tool(openai: OpenAI) -> None:
    """Which vLLM refuses where no parser is set for what the model writes."""
    chat = openai.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[SCALE], tool_choice="auto", temperature=0, max_tokens=TOKENS
    )
    assert chat.choices[0].finish_reason == "length", "random weights choose none"


async def test_what_the_queue_does_not_hold_is_refused_at_once(served: Served) -> None:
    long = GREEDY | {"prompt": "A pod is", "max_tokens": 256}
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as client:
        answers = await asyncio.gather(*(client.post("/v1/completions", json=long) for _ in range(24)))
    codes = Counter(one.status_code for one in answers)
    assert codes.keys() == {200, 503}, codes
    assert answer(served, "/v1/completions", prompt="A pod is", **GREEDY)


def test_proposed_tokens_are_accepted(served: Served) -> None:
    proposed, accepted = "vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"
    before = metrics.total(served.url, accepted)
    repeating = answer(
        served,
        "/v1/completions",
        **(GREEDY | {"prompt": "pods: ", "max_tokens": 64, "structured_outputs": {"regex": "(kubernetes ){5}"}}),
    )
    assert repeating["choices"][0]["text"] == "kubernetes " * 5
    assert metrics.total(served.url, accepted) > before
    assert metrics.total(served.url, proposed) >= metrics.total(served.url, accepted)


def test_a_repeated_prefix_is_found_in_the_cache(served: Served) -> None:
    hits = "vllm:prefix_cache_hits_total"
    prompt = "A prefix that no other test has, and that fills more than one block of the cache. " * 8
    first = answer(served, "/v1/completions", prompt=prompt, **GREEDY)["choices"][0]["text"]
    before = metrics.total(served.url, hits)
    assert answer(served, "/v1/completions", prompt=prompt, **GREEDY)["choices"][0]["text"] == first
    assert metrics.total(served.url, hits) - before >= len(prompt) / 2


def test_another_server_finds_what_vllm_kept_and_tells_reasoning_from_answers(served: Served) -> None:
    kept = "/cache/vllm/modelinfos/vllm-model_executor-models-llama-LlamaForCausalLM.json"
    before = served.pod["metadata"]["name"], served.run("stat", "-c", "%i %Y %s", kept)
    reasoning = {"spec": {"engine": {"reasoning": {"parser": "qwen3"}}}}
    served.kubectl("patch", "vllmdeployment", MODEL, "--type=merge", f"--patch={json.dumps(reasoning)}")
    served.wait_ready()
    after = served.pod["metadata"]["name"], served.run("stat", "-c", "%i %Y %s", kept)
    assert after[0] != before[0]
    assert after[1] == before[1], "vLLM did not find the file, and wrote it again"
    message = answer(served, "/v1/chat/completions", **CHAT)["choices"][0]["message"]
    assert message["content"] is None, "the tiny model never ends its reasoning"
    assert len(message["reasoning"]) == TOKENS
