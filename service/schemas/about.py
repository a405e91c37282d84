"""What the routes that tell of the index itself put out over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.example import with_example
from service.schemas.search import Space


class ClassCount(BaseModel):
    """How many images a class has."""

    label: str
    items: int
    queries: int


class Usage(BaseModel):
    """Bytes on the disk."""

    codes: int = Field(description="Of the codes, which lie in the catalogue; in memory they take more.")
    thumbnails: int = Field(description="Of the thumbnails, which lie in the catalogue, the queries' too.")
    catalogue: int = Field(description="Of the catalogue as a whole, with its write-ahead log.")
    originals: int = Field(description="Of the files of images that were sent and are kept.")
    per_image: float | None = Field(
        description="Catalogue and originals over all their images, queries included; null: there are none."
    )


class Recall(BaseModel):
    """How inexact searches by content are."""

    cells: int = Field(description="Parts that the index is divided into.")
    searched: int = Field(description="Of them, for each query.")
    at_10: float = Field(description="Share of the ten nearest images that are found, or others as near.")
    queries: int = Field(description="Indexed images that it was measured with.")


class Stats(BaseModel):
    """What there is."""

    model_config = with_example(
        {
            "items": 1618,
            "labelled": 1618,
            "unlabelled": 0,
            "learned_from": 1618,
            "queries": 179,
            "trash": 0,
            "trash_days": 30,
            "classes": [{"label": "3", "items": 165, "queries": 18}],
            "bytes": {
                "codes": 51_776,
                "thumbnails": 402_000,
                "catalogue": 1_110_016,
                "originals": 0,
                "per_image": 617.7,
            },
            "artifact": "run-001",
            "created": "2026-01-31T12:00:00+00:00",
            "encoder_id": "4f0c2a9be1d37750",
            "embeddings": True,
            "bits": 256,
            "exact": True,
            "recall": None,
            "engine": "flat",
            "stale": 0,
            "revision": 3,
            "versions": {"hebbsearch": "0.1.0", "python": "3.11.7"},
            "uptime": 86_400.5,
        }
    )

    items: int = Field(description="Images that can be found.")
    labelled: int
    unlabelled: int
    learned_from: int | None = Field(
        description="Labels that the codes learned from; null: an earlier version did not note it."
    )
    queries: int = Field(description="Images that are held out to measure the answers.")
    trash: int = Field(description="Images that were deleted and can come back; they count nowhere else.")
    trash_days: int = Field(description="So long each lies there; 0: a deleted image is gone at once.")
    classes: list[ClassCount]
    bytes: Usage
    artifact: str = Field(description="Name of the artifact's folder.")
    created: str = Field(description="When the artifact was made (ISO 8601, UTC).")
    encoder_id: str
    embeddings: bool = Field(
        description="Whether embeddings of images are kept, by which labels are learned and advised on."
    )
    bits: int
    exact: bool = Field(description="Whether a search by content misses no nearer image.")
    recall: Recall | None = Field(
        description="Where it may: how much is found; null: it may not, or nothing was measured yet."
    )
    engine: str = Field(description="What ranks: flat, ivf, or the place where that is done.")
    stale: int = Field(description="How many changes it lacks, if it is elsewhere and takes none.")
    revision: int = Field(description="Of the catalogue; grows with every change.")
    versions: dict[str, str] = Field(description="Of what the service runs on.")
    uptime: float = Field(description="Seconds since the service was started.")


class DuplicateParameters(BaseModel):
    """Which groups of near images."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[
        Space,
        Field(
            description="content: groups of near codes. picture: of copies, mirrored and turned ones too, "
            "by hashes of the pixels (PDQ)."
        ),
    ] = "content"
    radius: Annotated[
        int | None,
        Field(
            ge=0,
            le=31,
            description="Bits in which neighbours in a group may differ; 0: equal codes. Unless it is given "
            "0 by content, 31 by picture.",
            examples=[2],
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="At most so many groups.")] = 20
    members: Annotated[int, Field(ge=1, le=1000, description="At most so many images of each group.")] = 20
    after: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{1,18}:[0-9]{1,18}$",
            description="Only what comes after this: a page's `next`.",
            examples=["3:1702"],
        ),
    ] = None


class Duplicate(BaseModel):
    """An image of a group."""

    id: int
    path: str | None = Field(description="As GET /images/{id} has it. null: it was removed meanwhile.")
    label: str | None = Field(description="null: the image has no label.")
    width: int
    height: int
    thumbnail: str


class DuplicateGroup(BaseModel):
    """Images that a chain of near ones connects."""

    size: int = Field(description="How many images.")
    labels: int = Field(description="How many different labels they have.")
    best: int = Field(
        description="The id of the image to keep where the others go: the one of most pixels, of several one "
        "with a label, of these the one of the lowest id."
    )
    images: list[Duplicate] = Field(description="By ascending id, at most `members` of them.")


class DuplicatePage(BaseModel):
    """Groups of near images, the largest first, then by their lowest id."""

    model_config = with_example(
        {
            "radius": 2,
            "groups": 40,
            "images": 96,
            "plain": 0,
            "found": [
                {
                    "size": 3,
                    "labels": 1,
                    "best": 1702,
                    "images": [
                        {
                            "id": 1702,
                            "path": "eight/1702.png",
                            "label": "8",
                            "width": 640,
                            "height": 480,
                            "thumbnail": "/images/1702/thumbnail",
                        }
                    ],
                }
            ],
            "next": "3:1702",
        }
    )

    radius: int
    groups: int = Field(description="How many groups of two and more images there are in all.")
    images: int = Field(description="How many images are in one.")
    plain: int = Field(
        description="By picture: how many images have too little detail to be compared, and are in no group."
    )
    found: list[DuplicateGroup] = Field(description="The groups of this page.")
    next: str | None = Field(description="`after` of the next page; null: this is the last one.")


class ExportParameters(BaseModel):
    """What the file shall be."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[Literal["npz", "parquet"], Field(description="NumPy's or Parquet.")] = "npz"
    trashed: Annotated[bool, Field(description="Also what lies in the trash; for whoever may write.")] = False
