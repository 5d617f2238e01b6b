"""Which of several operators acts: the part of the process that stands for election, and goes by its outcome."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vllm_operator.cluster import Author, Cluster, LeaseStore
from vllm_operator.cluster.counting import OnCall
from vllm_operator.config import OperatorConfig
from vllm_operator.errors import LeaseLost, UsageError
from vllm_operator.lease import Election, Terms

log = logging.getLogger(__name__)

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Leadership:
    """Leads once `gain` says so, until `stop` is set; without an election from the first moment to the last."""

    def __init__(self, election: Election | None = None) -> None:
        self._election = election
        self._keeping: asyncio.Task[None] | None = None
        self._ended = False
        self.follows = False  # another leads, and this process is ready to
        self.lost = False  # it led, and may never again

    @property
    def elects(self) -> bool:
        """Whether somebody else may lead."""
        return self._election is not None

    @property
    def is_leader(self) -> bool:
        """Whether this process may write."""
        return self._election is None or self._election.is_leader

    async def gain(self, stop: asyncio.Event) -> bool:
        """Wait until this process leads; False when `stop` is set first.

        From then on, losing the lease for good sets `stop`.
        """
        if self._election is None:
            return True
        self.follows = True
        log.info("standing for election as %s", self._election.identity)
        waiting = [asyncio.create_task(self._election.campaign(), name="campaign"), asyncio.create_task(stop.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        outcome, _ = await asyncio.gather(*waiting, return_exceptions=True)
        self.follows = False
        if isinstance(outcome, Exception):
            raise outcome
        if stop.is_set():
            return False
        self._keeping = asyncio.create_task(self._keep(self._election, stop), name="lease")
        return True

    async def _keep(self, election: Election, stop: asyncio.Event) -> None:
        try:
            await election.keep()
        except LeaseLost as error:
            log.error("leading no more: %s", error)  # noqa: TRY400 - the sentence says it all
        except Exception:  # a process that renews no more must not live on as if it did
            log.exception("leading no more: the lease cannot be kept")
        self.lost = True
        stop.set()

    async def end(self, *, release: bool) -> None:
        """Let another lead: at once with `release`, for which nothing may be under way any more, or when time is up."""
        if self._ended:
            return
        self._ended = True
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._election and release and not self.lost:
            await self._election.resign()

    def author(self) -> Author:
        """In whose name is written, and for how long that is allowed."""
        return Author(self._election.identity, self._election.time_left) if self._election else Author()


def _namespace(config: OperatorConfig) -> str:
    if config.lease_namespace:
        return config.lease_namespace
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(
            "--leader-elect=true needs --lease-namespace outside of a pod: which operators take part is unknown."
        ) from error


@asynccontextmanager
async def candidacy(config: OperatorConfig, on_call: OnCall | None = None) -> AsyncIterator[Leadership]:
    """Stand for election, if that is configured; `on_call` hears of the requests for that.

    The Lease has connections of its own, for which no other request has to be waited. Raises UsageError without a
    usable kubeconfig, or when it is not known in which namespace the Lease is.
    """
    if not config.leader_elect:
        yield Leadership()
        return
    # The pod's name, and what tells its containers apart when one is started anew.
    identity = f"{os.uname().nodename}_{secrets.token_hex(4)}"
    terms = Terms(config.lease_duration_seconds, config.lease_renew_seconds, config.lease_retry_seconds)
    namespace = _namespace(config)
    cluster = Cluster(kubeconfig=config.kubeconfig, context=config.context, connections=2, author=Author(identity))
    cluster.on_call = on_call
    async with cluster:
        yield Leadership(Election(LeaseStore(cluster, namespace, config.lease_name), identity, terms))
