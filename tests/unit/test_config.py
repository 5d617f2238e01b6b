"""Where a setting comes from, and what is said about a bad one."""

import argparse
import dataclasses

import pytest

from vllm_operator.config import OperatorConfig, add_flags, load
from vllm_operator.errors import UsageError

GOOD = {
    "engine_image": ("registry.example.com:5000/vllm@sha256:0123", "registry.example.com:5000/vllm@sha256:0123"),
    "cpu_image": ("vllm-cpu", "vllm-cpu"),
    "fetch_image": ("operator:v2", "operator:v2"),
    "namespace": ("team-a, team-b,team-a", ("team-a", "team-b")),
    "workers": ("4", 4),
    "resync_seconds": ("90.5", 90.5),
    "log_level": ("debug", "debug"),
    "log_format": ("text", "text"),
    "health_port": ("0", 0),
    "kubeconfig": ("/etc/kubeconfig", "/etc/kubeconfig"),
    "context": ("kind-a", "kind-a"),
    "tables": ("/etc/tables.yaml", "/etc/tables.yaml"),
    "writes_per_second": ("0.5", 0.5),
    "burst": ("1", 1),
    "config": ("/dev/null", "/dev/null"),
    "renew_pods": ("True", True),
    "leader_elect": ("true", True),
    "lease_name": ("team-a", "team-a"),
    "lease_namespace": ("operators", "operators"),
    "lease_duration_seconds": ("30", 30),
    "lease_renew_seconds": ("7.5", 7.5),
    "lease_retry_seconds": ("0.5", 0.5),
}
BAD = {
    "engine_image": ("vllm latest", ":v1", "vllm:"),
    "cpu_image": ("@", "vllm/"),
    "fetch_image": ("", "two words"),
    "namespace": ("Team", "-a", "a" * 64, "a/b", "team-a,", "team-a,B", ""),
    "workers": ("0", "257", "many", "1.5", "-1"),
    "resync_seconds": ("1", "nan", "inf", "ten", "86401"),
    "log_level": ("verbose", "INFO"),
    "log_format": ("yaml",),
    "health_port": ("-1", "65536", "http"),
    "kubeconfig": ("",),
    "context": ("",),
    "tables": ("",),
    "writes_per_second": ("0", "nan"),
    "burst": ("0", "1e3"),
    "config": ("",),
    "renew_pods": ("yes", "1", ""),
    "leader_elect": ("on", "0"),
    "lease_name": ("", "A", "a/b"),
    "lease_namespace": ("", "-a"),
    "lease_duration_seconds": ("0", "15.5", "3601"),
    "lease_renew_seconds": ("0", "nan"),
    "lease_retry_seconds": ("0", "inf"),
}
BAD_PAIRS = [(name, value) for name, values in BAD.items() for value in values]


def test_the_tables_of_this_module_know_every_setting() -> None:
    names = {field.name for field in dataclasses.fields(OperatorConfig)}
    assert GOOD.keys() == names == BAD.keys()


def test_defaults_satisfy_their_own_rules() -> None:
    defaults = OperatorConfig()
    said = {name: str(value) for name, value in dataclasses.asdict(defaults).items() if value not in (None, ())}
    assert load({}, said) == load({}, {}) == defaults


@pytest.mark.parametrize(("name", "said", "meant"), [(name, *pair) for name, pair in GOOD.items()])
def test_every_setting_from_environment_and_flag(name: str, said: str, meant: object) -> None:
    variable = f"VLLM_OPERATOR_{name.upper()}"
    assert getattr(load({variable: said}, {}), name) == meant
    assert getattr(load({}, {name: said}), name) == meant
    assert meant != getattr(OperatorConfig(), name), "the test would not notice that the value is ignored"


def test_a_flag_goes_before_the_environment_and_an_empty_variable_is_unset() -> None:
    environment = {"VLLM_OPERATOR_WORKERS": "4", "VLLM_OPERATOR_NAMESPACE": ""}
    config = load(environment, {"workers": "7", "burst": None})
    assert (config.workers, config.namespace, config.burst) == (7, (), 400)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"lease_renew_seconds": "15"},
            "lease_renew_seconds=15: must be less than lease_duration_seconds, which is 15.",
        ),
        ({"lease_retry_seconds": "10"}, "lease_retry_seconds=10: must be less than lease_renew_seconds, which is 10."),
        (
            {"lease_duration_seconds": "8"},
            "lease_renew_seconds=10: must be less than lease_duration_seconds, which is 8.",
        ),
    ],
)
def test_times_of_the_lease_that_contradict_each_other_are_one_sentence(
    settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load({}, settings)
    assert str(caught.value) == sentence


def test_what_kubernetes_puts_into_the_environment_for_a_service_is_left_alone() -> None:
    assert load({"VLLM_OPERATOR_PORT": "tcp://10.0.0.1:80", "VLLM_OPERATOR_SERVICE_HOST": "10.0.0.1"}, {})


@pytest.mark.parametrize(("name", "value"), BAD_PAIRS)
def test_a_bad_value_is_one_sentence(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        load({}, {name: value})
    sentence = str(caught.value)
    assert sentence.startswith(f"--{name.replace('_', '-')}={value!r}: must ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_the_sentence_names_the_variable_at_fault() -> None:
    with pytest.raises(UsageError, match=r"VLLM_OPERATOR_WORKERS='0': must be a whole number from 1 to 256\."):
        load({"VLLM_OPERATOR_WORKERS": "0"}, {})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OperatorConfig().workers = 3  # type: ignore[misc]


def test_every_setting_is_a_flag_with_help() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    assert all(f"--{name.replace('_', '-')} VALUE" in text for name in GOOD)
    flags = vars(parser.parse_args(["--workers", "3", "--log-format", "text"]))
    config = load({}, flags)
    assert (config.workers, config.log_format) == (3, "text")


def test_plans_get_the_images() -> None:
    defaults = OperatorConfig(engine_image="a", cpu_image="b", fetch_image="c").defaults()
    assert (defaults.engine_image, defaults.cpu_image, defaults.fetch_image) == ("a", "b", "c")
