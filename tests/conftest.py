"""Fixtures of every test below: see localcluster/README.md."""

pytest_plugins = ["localcluster.fixtures"]
