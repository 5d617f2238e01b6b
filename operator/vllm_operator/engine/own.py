"""What a server of the user's own is told: the model and the shape that sizing chose, in its environment.

It gets no flags, for nothing is known of its command line. The names are those of vLLM's own engine arguments
(vllm/engine/arg_utils.py) in capitals, without the prefix VLLM_, about whose unknown variables vLLM complains.
"""

from __future__ import annotations

from vllm_operator.api.spec import Spec
from vllm_operator.engine.arguments import PORT, is_cpu
from vllm_operator.engine.profiles import Settings
from vllm_operator.engine.source import Scheme, parse_source, served_names
from vllm_operator.sizing.types import Sizing


def told(spec: Spec, sizing: Sizing, chosen: Settings, commit: str) -> dict[str, str]:
    """Variables for a server of the user's own; none for vLLM's, which has its arguments."""
    if not spec.engine.command:
        return {}
    source, length = parse_source(spec.model.source), sizing.max_length or spec.model.max_length
    found = {
        "MODEL": source.uri,
        "SERVED_MODEL_NAME": served_names(spec.model)[0],
        "TENSOR_PARALLEL_SIZE": str(sizing.tensor),
        "PIPELINE_PARALLEL_SIZE": str(sizing.pipeline),
        "PORT": str(PORT),
    }
    if source.scheme is Scheme.HUB:
        found["MODEL_REVISION"] = commit or spec.model.revision
    if length != "auto":
        found["MAX_MODEL_LEN"] = str(length)
    return found if is_cpu(spec) else {**found, "GPU_MEMORY_UTILIZATION": f"{chosen.memory_utilization:g}"}
