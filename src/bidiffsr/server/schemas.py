"""What goes over the wire, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bidiffsr.images.formats import FORMAT_BY_NAME
from bidiffsr.upscaling.options import MAX_SEED, Quality

State = Literal["waiting", "running", "done", "failed", "cancelled"]


class JobRequest(BaseModel):
    """How a picture is to be upscaled."""

    model_config = ConfigDict(extra="forbid")

    scale: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="How many times larger. Default: the most."),
    ] = None
    quality: Annotated[
        Quality | None,
        Field(description="One of those that the model names. Default: the model's."),
    ] = None
    seed: Annotated[
        int, Field(ge=0, le=MAX_SEED, description="Another gives other invented detail.")
    ] = 0
    samples: Annotated[int, Field(ge=1, description="How many different results to make.")] = 1
    format: Annotated[
        str | None,
        Field(
            description="Of the result's file. Default: the picture's own.",
            json_schema_extra={"enum": [*FORMAT_BY_NAME, None]},
        ),
    ] = None
    name: Annotated[
        str | None,
        Field(max_length=1000, description="The picture's, for the result's; never a path."),
    ] = None


class ResultInfo(BaseModel):
    """A finished picture."""

    sample: Annotated[int, Field(description="From 0.")]
    name: Annotated[str, Field(description="Of the file.")]
    media_type: str
    bytes: int
    width: int
    height: int
    url: str


class JobInfo(BaseModel):
    """A picture on its way."""

    id: str
    number: Annotated[int, Field(description="Jobs run in the order of their numbers.")]
    state: State
    name: Annotated[str, Field(description="Of the picture, without folders.")]
    width: int
    height: int
    scale: float
    quality: Quality | None
    seed: int
    samples: int
    before: Annotated[int, Field(description="Jobs that run or wait before this one.")]
    error: Annotated[str | None, Field(description="One line, of a failed one.")]
    results: list[ResultInfo]
    url: str
    events: Annotated[str, Field(description="The URL of its server-sent events.")]


class ProgressInfo(BaseModel):
    """The data of the event ``progress``."""

    sample: int
    samples: int
    step: int
    steps: int
    done: Annotated[int, Field(description="Finished parts of the work.")]
    total: int
    seconds: Annotated[float, Field(description="Since the job began to run.")]
    seconds_left: Annotated[float | None, Field(description="Estimated.")]


class PreviewInfo(BaseModel):
    """The data of the event ``preview``: the picture as a step predicts it, made small."""

    sample: int
    step: Annotated[int, Field(description="0 is the picture interpolated.")]
    steps: int
    width: int
    height: int
    image: Annotated[str, Field(description="A JPEG picture as a data: URL.")]


class ModelInfo(BaseModel):
    """What this server can do."""

    version: str
    model: str
    scale: Annotated[float, Field(description="The most.")]
    qualities: list[str]
    formats: Annotated[list[str], Field(description="That the page offers; jobs may name others.")]
    max_bytes: int
    max_pixels: int
    max_samples: int


class Health(BaseModel):
    """Whether jobs are taken."""

    status: Literal["ok", "stopping"]


class Problem(BaseModel):
    """Every answer that is an error (RFC 9457, application/problem+json)."""

    type: Literal["about:blank"] = "about:blank"
    title: Annotated[str, Field(description="What the status means.")]
    status: int
    detail: Annotated[str, Field(description="One line: what is wrong and how to mend it.")]
