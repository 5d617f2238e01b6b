"""Turn one VLLMDeployment into a sized, production vLLM service on Kubernetes."""
