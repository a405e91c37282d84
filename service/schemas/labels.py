"""Advice on labels over HTTP: which to give next, and which to look at again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.example import with_example
from service.schemas.images import IMAGE, Confidence, Image


class AdviceParameters(BaseModel):
    """How much advice."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200, description="At most so many images.")] = 20


class PredictionParameters(BaseModel):
    """Which predicted labels count."""

    model_config = ConfigDict(extra="forbid")

    min_confidence: Annotated[
        Confidence, Field(description="Only those that are at least so sure.", examples=[0.8])
    ] = 0


class FileParameters(BaseModel):
    """Which labels the file has."""

    model_config = ConfigDict(extra="forbid")

    predicted: Annotated[
        bool,
        Field(
            description="Also a line for each image without a label whose label is predicted, with the "
            "source `predicted`: nothing takes such a line for a label."
        ),
    ] = False
    trashed: Annotated[bool, Field(description="Also what lies in the trash; for whoever may write.")] = False


class Suggestions(BaseModel):
    """Images whose labels would teach most, the most telling first."""

    model_config = with_example({"images": [IMAGE | {"label": None, "source": None}]})

    images: list[Image]


class Predicted(BaseModel):
    """A label that is predicted."""

    label: str
    images: int = Field(description="So many images without a label.")


class Predictions(BaseModel):
    """Predicted labels, that of most images first, then by name."""

    model_config = with_example({"predictions": [{"label": "poppy", "images": 34}], "unlabelled": 120})

    predictions: list[Predicted]
    unlabelled: int = Field(description="All images without a label.")


class Doubtful(BaseModel):
    """A labelled image whose label all the others contradict."""

    image: Image
    rival: str = Field(description="The likelier label, by all other labelled images.")
    doubt: float = Field(description="0: as much speaks for the one as for the other; 1: all for the rival.")


class Doubts(BaseModel):
    """The most doubtful labels, the worst first."""

    model_config = with_example({"found": [{"image": IMAGE, "rival": "8", "doubt": 0.7}]})

    found: list[Doubtful]
