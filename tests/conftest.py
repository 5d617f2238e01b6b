"""Options and profiles of every test below; fixtures of the cluster: see localcluster/README.md."""

import pytest
from hypothesis import settings

# What their assertions compare is shown, as that of tests is.
pytest.register_assert_rewrite("cluster.support", "node.support", "operator_process", "world")

pytest_plugins = ["hub.fixtures", "localcluster.fixtures"]

# The same examples on every run, so that a run never fails by luck. To look for new ones: --hypothesis-profile=explore
settings.register_profile("pinned", deadline=None, derandomize=True, max_examples=50)
# `make unit` draws fewer, to answer within seconds; `make test` draws all of them.
settings.register_profile("quick", settings.get_profile("pinned"), max_examples=10)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("pinned")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option that `make golden` uses, and one for those who have time."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is rendered now")
    in_full = (
        "outages as long as docs/reliability.md says, a kill after each write and at any moment, every field spoiled"
    )
    parser.addoption("--full-length", action="store_true", help=in_full)


@pytest.fixture(scope="session")
def full_length(pytestconfig: pytest.Config) -> bool:
    """Whether tests take the time of --full-length."""
    return bool(pytestconfig.getoption("full_length"))
