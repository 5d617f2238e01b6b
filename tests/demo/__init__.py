"""`make demo`: a local cluster, the operator, and samples that become Ready on simulated GPU nodes."""
