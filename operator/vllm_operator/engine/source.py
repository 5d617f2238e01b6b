"""Where a model comes from, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_operator.api.model_spec import Files, Model
from vllm_operator.naming import digest


class Scheme(StrEnum):
    """Kinds of source."""

    HUB = "hf"
    CLAIM = "pvc"
    OBJECT_STORE = "s3"
    IMAGE = "oci"


MODEL_MOUNT = "/model"  # where a claim or an image volume with the model is mounted


@dataclass(frozen=True, slots=True)
class Source:
    """A source: `location` is the repository, claim, bucket or image; `path` what follows inside it."""

    scheme: Scheme
    location: str
    path: str = ""

    @property
    def uri(self) -> str:
        """The source as vLLM takes it: repository id, mount point or object-store address."""
        if self.scheme is Scheme.HUB:
            return self.location
        if self.scheme is Scheme.OBJECT_STORE:
            return f"s3://{self.location}/{self.path}" if self.path else f"s3://{self.location}"
        return MODEL_MOUNT

    @property
    def served_name(self) -> str:
        """What clients ask for when the spec names nothing."""
        if self.scheme is Scheme.HUB:
            return self.location
        last = (self.path or self.location).rstrip("/").rsplit("/", 1)[-1]
        return last.partition("@")[0].partition(":")[0]

    @property
    def is_downloaded(self) -> bool:
        """Whether the files come through the cache."""
        return self.scheme is Scheme.HUB


def parse_source(text: str) -> Source:
    """Take `scheme://location[/path]` apart; the schema has checked it before."""
    scheme, _, rest = text.partition("://")
    if scheme in (Scheme.HUB, Scheme.IMAGE):
        return Source(Scheme(scheme), rest)
    location, _, path = rest.partition("/")
    return Source(Scheme(scheme), location, path.rstrip("/"))


def identity(model: Model) -> str:
    """What a Job looks at when it looks at the source: `hf://organisation/name@main`, or the source as it stands.

    Files that are left out may be what a look at the model fails of: other patterns are another identity.
    """
    if not parse_source(model.source).is_downloaded:
        return model.source
    patterns = "" if model.files == Files() else f"#{digest(model.files.model_dump())}"
    return f"{model.source}@{model.revision}{patterns}"


def served_names(model: Model) -> tuple[str, ...]:
    """Names that the server answers to; never empty."""
    return model.served_names or (parse_source(model.source).served_name,)
