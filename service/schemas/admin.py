"""What goes in and out of the routes of whoever runs the service."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.schemas.example import with_example


class Reload(BaseModel):
    """Which artifact to serve from now on."""

    model_config = with_example({"artifact": "run-002"}, extra="forbid")

    artifact: Annotated[
        str | None,
        Field(
            max_length=255,
            description="Name of a folder beside the one that is served; left out: what HEBBSEARCH_ARTIFACT "
            "leads to now.",
        ),
    ] = None
    force: Annotated[
        bool, Field(description="Even if it answers worse, or nobody knows whether it does.")
    ] = False
    as_it_is: Annotated[
        bool,
        Field(
            description="Without what was sent, changed and removed since, and without comparing: so that a "
            "copy that was made before comes back."
        ),
    ] = False


class CarriedOver(BaseModel):
    """What was done to the artifact before and is done to the one that took its place."""

    added: int = Field(description="Images that were sent.")
    changed: int = Field(description="Images that were given another label or other metadata.")
    removed: int


class Compared(BaseModel):
    """Both artifacts on the images that both hold out, each over its own index."""

    queries: int = Field(description="Images that both hold out.")
    map_before: float
    map_after: float


class Reloaded(BaseModel):
    """Another artifact is served."""

    model_config = with_example(
        {
            "before": "run-001",
            "after": "run-002",
            "carried_over": {"added": 12, "changed": 1, "removed": 3},
            "compared": {"queries": 180, "map_before": 0.962, "map_after": 0.97},
        }
    )

    before: str = Field(description="The artifact that was served.")
    after: str = Field(description="The one that is served, also after a restart.")
    carried_over: CarriedOver
    compared: Compared | None = Field(description="null: there was nothing to compare by.")


class SnapshotRequest(BaseModel):
    """What to call the copy."""

    model_config = with_example({"name": "backup-2026-01-31"}, extra="forbid")

    name: Annotated[
        str, Field(max_length=255, description="Name of a new folder beside the artifact that is served.")
    ]


class SnapshotMade(BaseModel):
    """A copy was made."""

    model_config = with_example({"name": "backup-2026-01-31", "items": 1617, "encoder_id": "4f0c…"})

    name: str
    items: int = Field(description="Indexed images.")
    encoder_id: str


class Health(BaseModel):
    """The service is well."""

    model_config = with_example({"status": "live"})

    status: Literal["live"] = "live"


class Readiness(BaseModel):
    """The service has just answered a query."""

    model_config = with_example(
        {"status": "ready", "items": 1617, "catalogue": None, "engine": None, "stale": 0}
    )

    status: Literal["ready"] = "ready"
    items: int = Field(description="Indexed images.")
    catalogue: str | None = Field(
        default=None,
        description="Why the server that keeps the catalogue does not answer, while searches are answered by "
        "what was read before; null: it answers, or the catalogue is a file.",
    )
    engine: str | None = Field(
        default=None,
        description="Why what ranks elsewhere takes no changes, while searches are answered by what it has; "
        "null: it does, or codes are ranked in the service.",
    )
    stale: int = Field(default=0, description="How many changes it lacks.")
