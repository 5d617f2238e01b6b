// The process of a pod's sandbox.
module vllm-operator.dev/localcluster/pause

go 1.26.0
