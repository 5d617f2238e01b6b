"""The operator's configuration, as commands that run beside it see it: from the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from vllm_operator.config import OperatorConfig, load
from vllm_operator.plan.types import Defaults


def configuration(flags: Mapping[str, str | None] | None = None) -> tuple[OperatorConfig, Defaults]:
    """Configuration and defaults; UsageError for a bad value. Refused table rows are told on standard error."""
    config = load(os.environ, flags or {})
    defaults = config.defaults()
    for row in defaults.tables.bad:
        print(f"{config.tables}: {row}", file=sys.stderr)
    return config, defaults
