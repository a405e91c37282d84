"""Images over HTTP: what is known of them, what may be changed, what became of those that were sent."""

import json
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from index.labels import LONGEST, label_of
from index.names import normal
from index.sorting import Sort
from index.sources import Source
from service.schemas.example import with_example
from service.schemas.search import MOST_LABELS

IMAGE: dict[str, Any] = {
    "id": 17,
    "path": "three/0017.png",
    "folder": "scans",
    "label": "3",
    "source": "given",
    "held_out": False,
    "predicted": None,
    "confidence": None,
    "rival": "8",
    "doubt": -0.9,
    "split": "database",
    "width": 8,
    "height": 8,
    "added": 1764028800,
    "sha256": "ab" * 32,
    "metadata": {"camera": "left"},
    "trashed": None,
    "thumbnail": "/images/17/thumbnail",
    "preview": "/images/17/preview",
    "original": "/images/17/original",
}
MOST_METADATA = 16_384  # bytes
DEEPEST_METADATA = 20
MOST_AT_ONCE = 10_000  # images in one request
LONGEST_FOLDER = 400  # characters of its path: an address takes two, of up to 12 bytes each character there
LONGEST_NAME = 255  # characters; Linux's NAME_MAX


def _relative(path: str) -> str:
    if {"", ".", ".."} & set(path.split("/")):
        raise ValueError("use a relative path with / between its parts, none of them empty, '.' or '..'")
    return _name(path)


def _name(text: str) -> str:
    if "\0" in text:  # no file has it, and not every database takes it
        raise ValueError("leave out the character U+0000")
    return text


def _small(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:  # NaN, half of a surrogate pair
        raise ValueError(f"it cannot be written as JSON ({str(error)[:80]})") from None
    if size > MOST_METADATA:
        raise ValueError(f"it has {size:,} bytes as JSON, at most {MOST_METADATA:,} are kept")
    if _is_deeper(value, DEEPEST_METADATA):
        raise ValueError(f"it is nested more than {DEEPEST_METADATA} levels deep")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Looks no deeper than it must: what is nested without end would end Python's stack."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _named(value: Any) -> Any:
    """With keys as labels are, at every depth. ValueError where one is none, or two are one."""
    if isinstance(value, list):
        return [_named(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = [(label_of(key, "key"), _named(inner)) for key, inner in value.items()]
    keys = Counter(key for key, _ in named)
    if "" in keys:
        raise ValueError("a key is empty; give it a name")
    if len(keys) < len(named):
        twice = keys.most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} is there twice, written in two ways; keep one")
    return dict(named)


def _check_source(asked: "Change | Relabelling") -> None:
    """ValueError for a source without a label."""
    if "source" in asked.model_fields_set and asked.label is None:
        raise ValueError("source: says how a label came; give the label too")


KnownId = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
LabelText = Annotated[
    str,
    Field(
        min_length=1,
        description=f"In Unicode's NFC, without white space around it, of at most {LONGEST} characters, and "
        "without control characters; or one that there is.",
    ),
]
Sha256 = Annotated[str, Field(pattern="^[0-9A-Fa-f]{64}$")]
FileName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_name)]
FolderName = Annotated[FileName, AfterValidator(normal)]
Confidence = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
FolderPath = Annotated[str, Field(min_length=1, max_length=LONGEST_FOLDER), AfterValidator(_name)]
ImagePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_relative)]  # PATH_MAX
Metadata = Annotated[dict[str, Any], AfterValidator(_small), AfterValidator(_named)]


class Image(BaseModel):
    """What is known of an image in the catalogue."""

    model_config = with_example(IMAGE)

    id: int
    path: str = Field(description="Relative to its folder; � stands for each byte that is no UTF-8.")
    folder: str | None = Field(
        description="Name of the folder that it was sent from; null: it was indexed when the artifact was "
        "made, or sent alone."
    )
    label: str | None
    source: Source | None = Field(
        description="How the label came: chosen by a person, a predicted one that a person accepted, or one "
        "of a group that was accepted at once; null: there is none."
    )
    held_out: bool = Field(
        description="Its label came after the index was made, and measures the answers instead of teaching."
    )
    predicted: str | None = Field(description="The likeliest label, where none was given.")
    confidence: float | None = Field(description="How likely that is, from 0 to 1.")
    rival: str | None = Field(description="The likeliest other label, by all other labelled images.")
    doubt: float | None = Field(
        description="How much spoke for the rival, from -1 to 1, when something was learned last; 0: as much "
        "as for the label. null: nobody looked, or it had another label then."
    )
    split: Literal["database", "query", "trash"] = Field(
        description="database: it can be found; query: held out to measure the answers; trash: deleted, and "
        "can come back."
    )
    width: int
    height: int
    added: int | None = Field(description="Seconds since 1970; null: an earlier version did not note it.")
    sha256: str | None = Field(description="Of the file, in hexadecimal; null: not known.")
    metadata: dict[str, Any] = Field(description="The user's own.")
    trashed: int | None = Field(description="Seconds since 1970; null: it is not in the trash.")
    thumbnail: str
    preview: str = Field(description="Large enough to look at.")
    original: str | None = Field(description="null: the original file is not there.")


class PageParameters(BaseModel):
    """Which images to list."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[
        int, Field(ge=0, lt=2**63, description="Only ids above this one: a page's `next`.", examples=[100])
    ] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many images.")] = 100
    split: Annotated[
        Literal["database", "query"],
        Field(description="database: what can be found; query: held out to measure the answers."),
    ] = "database"
    trashed: Annotated[bool, Field(description="What lies in the trash instead; for whoever may write.")] = (
        False
    )
    label: Annotated[
        list[str],
        Field(
            max_length=MOST_LABELS,
            description="Only images with one of these labels; repeatable.",
            examples=[["3", "8"]],
        ),
    ] = []
    unlabelled: Annotated[
        bool, Field(description="Only images without a label, beside those with one of `label`.")
    ] = False
    folder: FolderName | None = Field(
        default=None, description="Only images that were sent with this folder's name.", examples=["scans"]
    )
    under: FolderPath | None = Field(
        default=None,
        description="Only images that lie in this folder or below: a `path` that GET /folders names.",
        examples=["scans/2024"],
    )
    sha256: Sha256 | None = Field(
        default=None, description="Only images whose file has this SHA-256.", examples=["0f" * 32]
    )
    name: FileName | None = Field(
        default=None,
        description="Only images whose path has this in it, in capitals or small letters.",
        examples=["17.png"],
    )
    predicted: Annotated[
        list[str],
        Field(
            max_length=MOST_LABELS,
            description="Only images without a label for which one of these is predicted; repeatable.",
            examples=[["3", "8"]],
        ),
    ] = []
    min_confidence: Confidence | None = Field(
        default=None,
        description="Only images without a label for which one is predicted at least so surely.",
        examples=[0.8],
    )
    sort: Annotated[
        Sort,
        Field(
            description="time: since when they are here; name: their path; confidence: of the predicted "
            "label, the surest first; doubt: of the given label, the most doubtful first. Equal ones by id, "
            "those that lack it last."
        ),
    ] = "id"
    descending: Annotated[bool, Field(description="In the opposite order.")] = False
    offset: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="So many are skipped, and `total` is counted. In place of `after`, in any order.",
        examples=[100],
    )


class Page(BaseModel):
    """Images in the order that was asked for."""

    model_config = with_example({"images": [IMAGE], "next": 17, "total": None})

    images: list[Image]
    next: int | None = Field(
        description="`after` of the next page; null: this is the last one, or `offset` leads to the others."
    )
    total: int | None = Field(description="All of these images; null: there was no `offset`.")


class FolderParameters(BaseModel):
    """Which folders to list."""

    model_config = ConfigDict(extra="forbid")

    under: FolderPath | None = Field(
        default=None,
        description="Those in the folder with this `path`; left out: those at the top.",
        examples=["scans"],
    )
    after: FolderPath | None = Field(
        default=None, description="Only those behind this one: a page's `next`.", examples=["scans/2023"]
    )
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many folders.")] = 100


class Folder(BaseModel):
    """A folder that images lie in."""

    name: str
    path: str = Field(
        description="`under` of GET /images and of GET /folders. Where a byte of a name is no UTF-8, it has "
        "two slashes and two hexadecimal digits."
    )
    images: int = Field(description="In it and in all folders below.")
    folders: int = Field(description="Directly in it.")


class FolderPage(BaseModel):
    """Folders by name, in capitals or not."""

    model_config = with_example(
        {
            "folders": [{"name": "2024", "path": "scans/2024", "images": 120, "folders": 12}],
            "total": 1,
            "next": None,
        }
    )

    folders: list[Folder]
    total: int = Field(description="All that lie directly in the folder that was asked for.")
    next: str | None = Field(description="`after` of the next page; null: this is the last one.")


class AddedImage(BaseModel):
    """What became of one image."""

    name: str = Field(description="Of the file; its path where a folder was given.")
    status: Literal["added", "exists", "restored", "refused"] = Field(
        description="restored: it came out of the trash, with its label and metadata."
    )
    image: Image | None = Field(description="null: it was refused, or is gone already.")
    error: str | None = Field(
        description="Why it was refused; where it exists: what it keeps that differs from what was given."
    )


class AddedImages(BaseModel):
    """What became of each image, in their order."""

    model_config = with_example(
        {
            "images": [
                {"name": "0017.png", "status": "added", "image": IMAGE, "error": None},
                {
                    "name": "notes.txt",
                    "status": "refused",
                    "image": None,
                    "error": "not an image in a known format (PNG, JPEG, …)",
                },
            ]
        }
    )

    images: list[AddedImage]


class Relabelling(BaseModel):
    """One label for many images."""

    model_config = with_example({"ids": [3, 17], "label": "cat", "was": ""}, extra="forbid")

    ids: Annotated[list[KnownId], Field(min_length=1, max_length=MOST_AT_ONCE)]
    label: LabelText | None = Field(description="May be new; null: none.")
    source: Source = Field(
        default="given", description="How the label came. Goes with a label; of one that is there it stays."
    )
    was: str | None = Field(
        default=None,
        description="Only those with this label, or, empty, without any: another may have been faster.",
    )

    @model_validator(mode="after")
    def _source_has_a_label(self) -> Self:
        _check_source(self)
        return self


class Left(BaseModel):
    """An image that stays as it was."""

    id: int
    reason: str


class Changed(BaseModel):
    """What became of many images."""

    model_config = with_example({"changed": 1, "left": [{"id": 3, "reason": "there is no image 3"}]})

    changed: int = Field(description="How many images.")
    left: list[Left] = Field(description="Those that stay as they were.")


class Change(BaseModel):
    """What to change of an image; what is left out stays as it is."""

    model_config = with_example({"label": "cat", "metadata": {"camera": "left"}}, extra="forbid")

    label: LabelText | None = Field(default=None, description="May be new; null: none.")
    source: Source = Field(
        default="given", description="How the label came. Goes with a label; of one that is there it stays."
    )
    metadata: Metadata | None = Field(
        default=None, description="Takes the place of what there was; null or left out: as it is."
    )

    @model_validator(mode="after")
    def _source_has_a_label(self) -> Self:
        _check_source(self)
        return self
