"""Jobs over HTTP: what is being learned, how far it is, and what came of it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.schemas.example import with_example

QUALITY = {"images": 60, "map": 0.71, "top1": 0.83}
JOB: dict[str, Any] = {
    "id": 3,
    "status": "done",
    "started": 1764028800.0,
    "ended": 1764028871.5,
    "step": "codes are made",
    "seconds_left": None,
    "artifact": "run-001",
    "target": "run-001-learned-3",
    "in_use": False,
    "result": {
        "artifact": "run-001-learned-3",
        "learned_from": 714,
        "held_out": 60,
        "before": QUALITY | {"map": 0.64, "top1": 0.79},
        "after": QUALITY,
        "network_labels": 500,
        "only_class": None,
    },
    "error": None,
}


class Quality(BaseModel):
    """How good the answers are to images that were held out and that nothing learned from."""

    images: int
    map: float
    top1: float = Field(description="How often the nearest image has the right label.")


class Learned(BaseModel):
    """What was learned."""

    artifact: str = Field(description="A folder beside the one served, for POST /admin/reload.")
    learned_from: int = Field(description="Labels.")
    held_out: int = Field(description="Labels that came since the build and measure instead of teaching.")
    before: Quality | None = Field(description="Of the artifact before; null: too few are held out.")
    after: Quality | None = Field(description="Of what was made, on the same images.")
    network_labels: int | None = Field(
        description="Labels that the network learned from, which stays as it is; null: it needs none."
    )
    only_class: str | None = Field(  # jobs that were noted before do not say it
        None, description="What all these labels are, so that none is predicted; null: there are several."
    )


class Job(BaseModel):
    """Learning from labels."""

    model_config = with_example(JOB)

    id: int
    status: Literal["running", "done", "failed", "cancelled"]
    started: float = Field(description="Seconds since 1970.")
    ended: float | None
    step: str = Field(description="What it does, or did last.")
    seconds_left: float | None = Field(description="By how long the last one took; null: nobody knows.")
    artifact: str = Field(description="The folder that is learned from.")
    target: str = Field(description="The folder that is made.")
    in_use: bool = Field(description="What it made is served, or kept to go back to.")
    result: Learned | None = Field(description="null: there is none.")
    error: str | None = Field(description="Why it failed.")


class JobList(BaseModel):
    """All jobs that are remembered, the latest first."""

    model_config = with_example({"jobs": [JOB]})

    jobs: list[Job]
