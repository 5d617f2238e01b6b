"""The operator as a process: what is built of what, how it starts, and how it ends."""

from vllm_operator.app.logs import configure_logging
from vllm_operator.app.process import run

__all__ = ["configure_logging", "run"]
