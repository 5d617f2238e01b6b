"""The resource: its models, the CRD generated from them, and the way from YAML to a checked spec."""

GROUP = "vllm-operator.dev"
VERSION = "v1alpha1"
KIND = "VLLMDeployment"
PLURAL = "vllmdeployments"
API_VERSION = f"{GROUP}/{VERSION}"
