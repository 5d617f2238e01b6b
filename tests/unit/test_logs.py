"""Log lines: one JSON object each for machines, readable for people, with the resource in both."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from vllm_operator.app import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, kopf = logging.getLogger(), logging.getLogger("kopf")
    handlers, levels = root.handlers[:], (root.level, kopf.level)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    kopf.setLevel(levels[1])


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = logging.getLogger("vllm_operator.test")
    log.info("wrote %d\nlines of ünïcode", 2, extra={"resource": "team/chat", "result": "written", "seconds": 0.1})
    log.error("fault", exc_info=ZeroDivisionError("by nought"))
    log.debug("not shown")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "vllm_operator.test",
        "message": "wrote 2\nlines of ünïcode",
        "resource": "team/chat",
        "result": "written",
        "seconds": 0.1,
    }
    assert second["traceback"].endswith("ZeroDivisionError: by nought")


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "text")
    logging.getLogger("vllm_operator.test").debug("wrote", extra={"resource": "team/chat", "writes": 2})
    line = capsys.readouterr().err.rstrip("\n")
    assert line[8:] == " DEBUG   wrote resource=team/chat writes=2"


def test_warnings_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old\nhabit", DeprecationWarning, stacklevel=1)
    assert "old\nhabit" in json.loads(capsys.readouterr().err)["message"]


def test_kopf_is_quiet_unless_somebody_debugs(capsys: pytest.CaptureFixture[str]) -> None:
    kopf = logging.getLogger("kopf.reactor")
    configure_logging("info", "text")
    kopf.info("a step")
    kopf.warning("a problem")
    assert capsys.readouterr().err.count("\n") == 1
    configure_logging("debug", "text")
    kopf.info("a step")
    assert "a step" in capsys.readouterr().err


def test_lines_of_kopf_carry_the_key_as_ours_do(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    kopf = logging.getLogger("kopf.activities")
    reference = {"apiVersion": "vllm-operator.dev/v1alpha1", "kind": "VLLMDeployment", "namespace": "a", "name": "b"}
    kopf.warning("hm", extra={"k8s_ref": reference, "settings": object(), "k8s_skip": False})
    kopf.warning("hm", extra={"k8s_ref": {**reference, "kind": "Node", "namespace": None}})
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message", "resource"}
    assert first["resource"] == "a/b"
    assert second["object"] == "Node b"


def test_details_are_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error", "json")
    logging.getLogger("vllm_operator.app.dump").info("asked", extra={"details": {"waiting": 3}})
    assert json.loads(capsys.readouterr().err)["waiting"] == 3, "who asks is answered at any level"


def test_settings_are_a_field_for_machines_and_a_message_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"workers": {"value": 4, "source": "flag"}}
    for log_format in ("json", "text"):
        configure_logging("info", log_format)
        logging.getLogger("vllm_operator").info("configuration: workers=4 (flag)", extra={"configuration": settings})
    line, text = capsys.readouterr().err.splitlines()
    assert json.loads(line)["configuration"] == settings
    assert text.endswith("configuration: workers=4 (flag)")
