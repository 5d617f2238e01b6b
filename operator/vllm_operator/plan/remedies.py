"""Which field of the spec a Job's report means: the command that wrote it knows arguments and variables only."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_operator.report import Failed, Reason

_FIELDS: Mapping[Reason, str] = {
    Reason.GATED: "spec.model.tokenSecretRef names the token's Secret",
    Reason.TOKEN: "spec.model.tokenSecretRef names the token's Secret",
    Reason.MODEL: "correct spec.model.source, or the source of an adapter or a draft model in spec.engine",
    Reason.REVISION: "correct spec.model.revision",
    Reason.SPACE: "raise spec.cache.size, or name a larger claim in spec.cache.claimName",
    Reason.WEIGHTS: "see spec.model.source and spec.model.files",
    Reason.CACHE: "see the class of the claim, or name another claim in spec.cache.claimName",
    Reason.HUB: "a mirror or a proxy goes into spec.engine.env",
}


def remedy(failed: Failed) -> str:
    """The sentence of a failure, and the field of the spec that heals it."""
    found = _FIELDS.get(failed.reason)
    return f"{failed.message} In this resource: {found}." if found else failed.message
