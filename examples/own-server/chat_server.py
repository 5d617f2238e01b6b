"""A server of one's own: a FastAPI application that streams answers of vLLM's AsyncLLM as server-sent events.

The operator gives it the model cache, the GPUs, probes on /health, a Service and autoscaling, and tells it in its
environment what sizing has decided (docs/own-server.md). Everything between the request and the engine is yours.
"""

import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError


def engine_arguments() -> AsyncEngineArgs:
    """What the operator decided, and what this server adds of its own (ENGINE_ARGS, as JSON)."""
    told = {
        "model": os.environ["MODEL"],
        "revision": os.environ.get("MODEL_REVISION") or None,
        "served_model_name": os.environ["SERVED_MODEL_NAME"],
        "max_model_len": int(os.environ["MAX_MODEL_LEN"]) if os.environ.get("MAX_MODEL_LEN") else None,
        "tensor_parallel_size": int(os.environ.get("TENSOR_PARALLEL_SIZE", "1")),
        "pipeline_parallel_size": int(os.environ.get("PIPELINE_PARALLEL_SIZE", "1")),
    }
    if share := os.environ.get("GPU_MEMORY_UTILIZATION"):
        told["gpu_memory_utilization"] = float(share)
    return AsyncEngineArgs(**{**told, **json.loads(os.environ.get("ENGINE_ARGS", "{}"))})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the port opens, so that an answer of /health means that it is loaded."""
    app.state.engine = AsyncLLM.from_engine_args(engine_arguments())
    yield
    app.state.engine.shutdown()


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """What a client asks."""

    prompt: str = Field(min_length=1)
    max_tokens: int = Field(default=64, ge=1, le=4096)
    temperature: float = Field(default=0.0, ge=0, le=2)


@app.get("/health")
async def health() -> Response:
    """200 while the engine lives, 503 once it is dead: the probes act on it."""
    try:
        await app.state.engine.check_health()
    except EngineDeadError as error:
        raise HTTPException(503, "the engine is dead") from error
    return Response()


@app.get("/metrics")
async def metrics() -> Response:
    """The engine's own metrics, by which the operator's HPA scales and its dashboards draw."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.post("/ask")
async def ask(question: Question) -> StreamingResponse:
    """Stream the answer, one event per piece of text, `[DONE]` at the end."""
    return StreamingResponse(_events(question), media_type="text/event-stream")


async def _events(question: Question) -> AsyncIterator[str]:
    wanted = SamplingParams(
        max_tokens=question.max_tokens, temperature=question.temperature, output_kind=RequestOutputKind.DELTA
    )
    async for output in app.state.engine.generate(question.prompt, wanted, uuid.uuid4().hex):
        answer = output.outputs[0]
        if answer.text or answer.finish_reason:
            yield f"data: {json.dumps({'text': answer.text, 'finish_reason': answer.finish_reason})}\n\n"
    yield "data: [DONE]\n\n"
