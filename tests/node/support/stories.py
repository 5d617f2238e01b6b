"""Failures told in stories: a resource with several faults at once, each healed as its message says, one after another.

That the next fault shows, or that it serves in the end, is what proves that the last remedy healed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from cluster.support.api import Api, Manifest
from cluster.support.service import Service
from localcluster.wait import wait_for
from node.support.specs import resource
from node.support.stage import Stage
from vllm_operator import kinds

PATIENCE_SECONDS = 900.0
"""Until a failure shows: a start of vLLM takes ten seconds of two idle cores, and many times that of busy ones."""

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Patient:
    """A VLLMDeployment with a fault, and all that can be done about it."""

    stage: Stage
    service: Service

    @property
    def api(self) -> Api:
        return self.service.api

    def apply(self, manifest: Manifest) -> None:
        """Create or change an object in the namespace."""
        self.stage.kubectl.apply(manifest)

    def secret(self, name: str, **values: str) -> None:
        """Create or change a Secret."""
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})

    def delete_job(self, component: str) -> None:
        """Delete the Job of a component, so that another one takes its place."""
        jobs = [
            one for one in self.service.jobs() if one["metadata"]["labels"]["app.kubernetes.io/component"] == component
        ]
        for job in jobs:
            self.api.delete(kinds.JOB, self.service.namespace, job["metadata"]["name"])

    def run(self, *command: str) -> str:
        """Run a command in the server's container."""
        (pod,) = self.service.pods()
        return self.stage.kubectl("exec", pod["metadata"]["name"], "--", *command).stdout

    def says(self, status: str, reason: str, kind: str = "Ready", words: str = "") -> Manifest:
        """Wait until a condition of the present spec says that, `words` in its message, and return it."""

        def said() -> Manifest:
            found = self.service.condition(kind)
            assert (found.get("status"), found.get("reason")) == (status, reason), found
            assert words in found["message"], found
            return found

        return wait_for(said, PATIENCE_SECONDS, f"{self.service}: {kind}={status} {reason}", _LOOK_SECONDS)

    def serves(self) -> None:
        """Wait until it is Ready."""
        self.says("True", "Available")


Act = Callable[[Patient], object]


@dataclass(frozen=True, slots=True)
class Failure:
    """A fault: what the status says of it, and how it is healed.

    name: of the test. reason: of Ready. remedy: words of the message that name the way out. heal: an edit of the spec
    (a merge patch), or what else the message tells to do. quotes: what the quoted line of a log holds. stalled: what
    Stalled says; None where that takes a second failure, which is not waited for. provoke: what brings the fault, where
    the spec does not. condition: another one that has the same reason.
    """

    name: str
    reason: str
    remedy: str
    heal: Mapping[str, Any] | Act
    quotes: str = ""
    stalled: bool | None = None
    provoke: Act | None = None
    condition: str = ""

    def play(self, patient: Patient) -> None:
        """Provoke the failure, read what is said of it, and heal it."""
        if self.provoke:
            self.provoke(patient)
        message = patient.says("False", self.reason, words=self.remedy)["message"]
        assert not self.quotes or re.search(rf'\(log: ".*{self.quotes}', message), message
        if self.condition:
            patient.says("False", self.reason, self.condition)
        self._check_stalled(patient)
        if callable(self.heal):
            self.heal(patient)
        else:
            patient.service.edit(self.heal)

    def _check_stalled(self, patient: Patient) -> None:
        if self.stalled:
            patient.says("True", self.reason, "Stalled")
        elif self.stalled is False:
            assert patient.service.condition("Stalled")["status"] == "False", patient.service.status


@dataclass(frozen=True, slots=True)
class Story:
    """A resource, made from a spec, and its faults in the order in which they show. It serves in the end."""

    name: str
    spec: Mapping[str, Any]
    failures: Sequence[Failure]
    before: Act | None = None

    def begin(self, patient: Patient) -> None:
        """Create the resource."""
        if self.before:
            self.before(patient)
        patient.api.create(resource(self.name, self.spec), patient.service.namespace)


def tell(stage: Stage, api: Api, stories: Sequence[Story]) -> Mapping[str, Future[None]]:
    """Begin all stories, each in a thread of its own, and return what becomes of each failure and of each resource."""
    told: dict[str, Future[None]] = {}
    for story in stories:
        told |= {name: Future() for name in (*(failure.name for failure in story.failures), story.name)}
        patient = Patient(stage, Service(api, stage.namespace, story.name))
        threading.Thread(target=_tell, args=(story, patient, told), daemon=True).start()
    return told


def _tell(story: Story, patient: Patient, told: Mapping[str, Future[None]]) -> None:
    """Play a story to its end, or to the first failure that is not as it should be: the rest of it fails with that."""
    acts: list[tuple[str, Act]] = [(failure.name, failure.play) for failure in story.failures]
    problem: Exception | None = None
    for name, act in [("", story.begin), *acts, (story.name, Patient.serves)]:
        problem = problem or _attempt(act, patient)
        if name and problem:
            told[name].set_exception(problem)
        elif name:
            told[name].set_result(None)


def _attempt(act: Act, patient: Patient) -> Exception | None:
    try:
        act(patient)
    except Exception as error:  # noqa: BLE001 - handed on to the test
        return error
    return None
