"""The seam to the Kubernetes API: the only package that talks to it, in plain dictionaries."""

from vllm_operator.cluster.author import Author
from vllm_operator.cluster.client import Cluster
from vllm_operator.cluster.connection import Connection
from vllm_operator.cluster.leases import LeaseStore
from vllm_operator.cluster.schema import schema_errors

__all__ = ["Author", "Cluster", "Connection", "LeaseStore", "schema_errors"]
