"""The seam to the Kubernetes API: the only package that talks to it, in plain dictionaries."""

from vllm_operator.cluster.client import Cluster
from vllm_operator.cluster.connection import Connection
from vllm_operator.cluster.schema import schema_errors

__all__ = ["Cluster", "Connection", "schema_errors"]
