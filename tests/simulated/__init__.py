"""A Kubernetes without processes: an API server, controllers and operators in one event loop, in virtual time."""
