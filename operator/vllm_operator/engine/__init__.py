"""How vLLM is started: settings, arguments, environment, probes; checked against what its version understands."""
