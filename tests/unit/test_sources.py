"""The file of settings, and an environment that Kubernetes writes into as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_operator.config import effective, load, unknown_variables
from vllm_operator.errors import UsageError


def configured(folder: Path, text: str) -> dict[str, str]:
    """An environment that names a file with this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return {"VLLM_OPERATOR_CONFIG": str(path)}


def refused(folder: Path, text: str) -> str:
    """What is said about a file, without its folder."""
    with pytest.raises(UsageError) as caught:
        load(configured(folder, text), {})
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.replace(f"{folder}/", "")


def test_a_file_gives_values_of_every_kind(tmp_path: Path) -> None:
    text = "workers: 4\nresync_seconds: 90.5\nnamespace: team-a\nburst: '7'\nlog_level: debug\ncontext: null\n"
    config = load(configured(tmp_path, text), {})
    assert (config.workers, config.resync_seconds, config.namespace) == (4, 90.5, ("team-a",))
    assert (config.burst, config.log_level, config.context) == (7, "debug", None)


def test_several_values_may_be_a_list(tmp_path: Path) -> None:
    for text in ("namespace: [team-a, team-b]\n", "namespace: team-a,team-b\n"):
        assert load(configured(tmp_path, text), {}).namespace == ("team-a", "team-b")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
def test_a_file_may_say_nothing(tmp_path: Path, text: str) -> None:
    assert load(configured(tmp_path, text), {}).workers == 16


def test_flags_go_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    environment = configured(tmp_path, "workers: 4\nburst: 5\nlog_level: debug\n")
    environment |= {"VLLM_OPERATOR_BURST": "6", "VLLM_OPERATOR_LOG_LEVEL": "error"}
    found = effective(environment, {"log_level": "warning"})
    assert (found.config.workers, found.config.burst, found.config.log_level) == (4, 6, "warning")
    told = found.settings()
    assert told["workers"] == {"value": 4, "source": "file"}
    assert told["burst"] == {"value": 6, "source": "environment"}
    assert told["log_level"] == {"value": "warning", "source": "flag"}
    assert told["health_port"] == {"value": 8080, "source": "default"}


def test_a_flag_names_the_file_too(tmp_path: Path) -> None:
    path = configured(tmp_path, "workers: 4\n")["VLLM_OPERATOR_CONFIG"]
    assert load({"VLLM_OPERATOR_CONFIG": "/nowhere"}, {"config": path}).workers == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workers: 0\n", "config.yaml: workers=0: must be a whole number from 1 to 256."),
        ("workers: 4.5\n", "config.yaml: workers=4.5: must be a whole number from 1 to 256."),
        ("workers: yes\n", "config.yaml: workers=True: must be a whole number from 1 to 256."),
        ("namespace: ''\n", "config.yaml: namespace='': must be names of namespaces, separated by commas."),
        ("log_level: loud\n", "config.yaml: log_level='loud': must be one of debug, info, warning, error."),
        ("worker: 4\n", "config.yaml: 'worker' is no setting; did you mean workers?"),
        ("logLevel: info\n", "config.yaml: 'logLevel' is no setting; did you mean log_level?"),
        ("log-level: info\n", "config.yaml: 'log-level' is no setting; did you mean log_level?"),
        ("zebra: 1\n", "config.yaml: 'zebra' is no setting."),
        ("config: other.yaml\n", "config.yaml: 'config' is no setting."),
        ("workers: [4]\n", "config.yaml: workers must be a single value, not a list."),
        ("namespace: []\n", "config.yaml: namespace='': must be names of namespaces, separated by commas."),
        ("namespace: [[a]]\n", "config.yaml: namespace must be a single value, not a list."),
        ("workers: 4\nburst: 1\nworkers: 8\n", "config.yaml: workers is there 2 times."),
        ("- workers\n", "The configuration config.yaml must be a mapping of settings to values, such as `workers: 4`."),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert refused(tmp_path, text) == sentence


def test_a_file_that_is_no_yaml_or_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert refused(tmp_path, "a: [").startswith("The configuration config.yaml is no YAML: ")
    with pytest.raises(UsageError, match=r"The configuration /nowhere cannot be read: .*No such file"):
        load({"VLLM_OPERATOR_CONFIG": "/nowhere"}, {})


# What a kubelet puts into a pod for Services called vllm-operator, vllm-operator-metrics and vllm-operator-health.
LINKS = {
    "VLLM_OPERATOR_SERVICE_HOST": "10.0.0.1",
    "VLLM_OPERATOR_SERVICE_PORT": "80",
    "VLLM_OPERATOR_SERVICE_PORT_HTTP": "80",
    "VLLM_OPERATOR_PORT": "tcp://10.0.0.1:80",
    "VLLM_OPERATOR_PORT_80_TCP": "tcp://10.0.0.1:80",
    "VLLM_OPERATOR_PORT_80_TCP_PROTO": "tcp",
    "VLLM_OPERATOR_PORT_80_TCP_PORT": "80",
    "VLLM_OPERATOR_PORT_80_TCP_ADDR": "10.0.0.1",
    "VLLM_OPERATOR_METRICS_SERVICE_HOST": "10.0.0.2",
    "VLLM_OPERATOR_METRICS_PORT": "tcp://10.0.0.2:80",
    "VLLM_OPERATOR_HEALTH_SERVICE_HOST": "10.0.0.3",
    "VLLM_OPERATOR_HEALTH_PORT": "tcp://10.0.0.3:8080",
    "VLLM_OPERATOR_HEALTH_PORT_8080_TCP_ADDR": "10.0.0.3",
}


def test_variables_that_kubernetes_makes_for_services_are_neither_settings_nor_mistakes() -> None:
    found = effective(LINKS, {})
    assert set(found.sources.values()) == {"default"}
    assert unknown_variables(LINKS) == []


def test_a_port_is_a_setting_all_the_same() -> None:
    assert load({**LINKS, "VLLM_OPERATOR_HEALTH_PORT": "9000"}, {}).health_port == 9000
    with pytest.raises(UsageError, match="VLLM_OPERATOR_HEALTH_PORT='http'"):
        load({"VLLM_OPERATOR_HEALTH_PORT": "http"}, {})


def test_a_variable_that_means_nothing_is_named_with_the_nearest_that_does() -> None:
    environment = {"VLLM_OPERATOR_WORKER": "4", "VLLM_OPERATOR_ZEBRA": "1", "VLLM_OPERATOR_BURST": "1", "HOME": "/"}
    assert unknown_variables(environment) == [
        "VLLM_OPERATOR_WORKER is no setting; did you mean VLLM_OPERATOR_WORKERS?",
        "VLLM_OPERATOR_ZEBRA is no setting",
    ]
