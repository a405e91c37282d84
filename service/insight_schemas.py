"""What the routes that tell of the index itself put out over HTTP."""

from pydantic import BaseModel, ConfigDict, Field


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


class Stats(BaseModel):
    """What there is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": 1618,
                    "labelled": 1618,
                    "unlabelled": 0,
                    "queries": 179,
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
                    "bits": 256,
                    "revision": 3,
                    "versions": {"hebbsearch": "0.1.0", "python": "3.11.7"},
                    "uptime": 86_400.5,
                }
            ]
        }
    )

    items: int = Field(description="Images that can be found.")
    labelled: int
    unlabelled: int
    queries: int = Field(description="Images that are held out to measure the answers.")
    classes: list[ClassCount]
    bytes: Usage
    artifact: str = Field(description="Name of the artifact's folder.")
    created: str = Field(description="When the artifact was made (ISO 8601, UTC).")
    encoder_id: str
    bits: int
    revision: int = Field(description="Of the catalogue; grows with every change.")
    versions: dict[str, str] = Field(description="Of what the service runs on.")
    uptime: float = Field(description="Seconds since the service was started.")
