"""The service's settings: read once, from environment variables that begin with HEBBSEARCH_."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "HEBBSEARCH_"
OF_COMMANDS = ("URL", "KEY")  # what commands take from the environment beside the settings
ALIKE = 0.75  # of 1: what is less alike is meant for somebody else, such as HEBBSEARCH_SERVICE_HOST
SHORTEST_KEY = 16
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")  # as browsers send it


def split(text: str) -> list[str]:
    """What commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


class Settings(BaseSettings):
    """HEBBSEARCH_ARTIFACT is required; the rest has defaults. The descriptions are in docs/service.md too."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    artifact: Path = Field(description="the artifact's folder")
    catalogue: SecretStr = Field(
        default=SecretStr(""),
        description="where the catalogue lies, once hebbsearch move brought it to PostgreSQL: "
        "postgresql+psycopg://user:password@host/database?schema=name; without any, in the artifact's folder",
    )
    max_image_bytes: int = Field(default=10_000_000, ge=1, description="largest upload")
    max_pixels: int = Field(default=50_000_000, ge=1, description="largest image")
    concurrency: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="images of more than 2¹⁸ pixels decoded at the same time, and as many of those that are "
        "added; smaller ones have their own processes",
    )
    decoding_seconds: int = Field(
        default=20, ge=1, description="time for one image; then the process that decodes it is stopped"
    )
    decoding_memory: int = Field(
        default=1_500_000_000,
        ge=2**20,
        description="bytes for one image; 24 for each pixel of the largest are enough",
    )
    max_batch: int = Field(default=64, ge=1, description="images in one POST /images or POST /search/batch")
    max_batch_bytes: int = Field(default=100_000_000, ge=1, description="their bytes together")
    keep_originals: bool = Field(
        default=True,
        description="whether the files of added images are kept, in the artifact's folder originals",
    )
    originals_to: Literal["readers", "writers", "nobody"] = Field(
        default="writers",
        description="who gets the files themselves, which may say where and with what a picture was taken: "
        "readers, writers (without any key: this machine) or nobody; all others see thumbnails and previews, "
        "without EXIF",
    )
    trash_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="days that deleted images lie in the trash, from which they can come back; 0: they are "
        "gone at once",
    )
    reload_margin: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="how much less mAP another artifact may reach than the one it replaces",
    )
    engine: SecretStr = Field(
        default=SecretStr("flat"),
        description="how the nearest codes are found: flat compares with all, ivf only with likely ones once "
        "there are more than 1,048,576 images, and misses some; catalogue lets the PostgreSQL of the "
        "catalogue rank, and an address another program: "
        "postgresql+psycopg://user:password@host/database?schema=name or milvus+http://host:19530/name",
    )
    recall: float = Field(
        default=0.95, gt=0, le=1, description="share of the ten nearest images that ivf shall find"
    )
    log: Literal["json", "text"] = Field(
        default="json", description="how each line of the log is written: json or text"
    )
    hosts: str = Field(
        default="",
        description="names by which the service may be asked for, separated by commas; without any, by each, "
        "but while there are no read keys from this machine, by any of its addresses, and through proxies "
        "only as localhost or that address, so that no foreign page in a browser here can make its name "
        "point to the service and read",
    )
    cors_origins: str = Field(
        default="",
        description="origins, separated by commas, such as https://example.org, whose pages may ask and read "
        "the answers in a browser; without any, only the service's own page",
    )
    read_keys: SecretStr = Field(
        default=SecretStr(""),
        description="keys that may read, separated by commas; without any, whoever reaches the port may read",
    )
    write_keys: SecretStr = Field(default=SecretStr(""), description="keys that may read and change")
    admin_keys: SecretStr = Field(default=SecretStr(""), description="keys that may do everything")
    queue: int = Field(
        default=128, ge=1, description="searches under way or waiting; more are answered 503 with Retry-After"
    )

    @property
    def catalogue_url(self) -> str | None:
        """Of a catalogue in PostgreSQL; None: it is a file in the artifact's folder."""
        return self.catalogue.get_secret_value() or None

    @property
    def engine_name(self) -> str:
        """flat, ivf, or an address, which may hold a password."""
        return self.engine.get_secret_value()

    def ranking_here(self) -> Self:
        """The same, where codes are ranked in this process."""
        return self.model_copy(update={"engine": SecretStr("flat")})

    @field_validator("engine")
    @classmethod
    def _is_engine(cls, name: SecretStr) -> SecretStr:
        if (text := name.get_secret_value()) not in ("flat", "ivf"):
            from index.engines import shown  # which takes a while to load

            shown(text)
        return name

    @field_validator("catalogue")
    @classmethod
    def _is_url(cls, text: SecretStr) -> SecretStr:
        if url := text.get_secret_value():
            from index.postgres_catalogue import without_password  # which takes a while to load

            without_password(url)
        return text

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        for origin in split(text):
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is no origin; name each, in small letters and without a path, such as "
                    "https://example.org"
                )
        return text

    @field_validator("read_keys", "write_keys", "admin_keys")
    @classmethod
    def _long_enough_and_sendable(cls, text: SecretStr) -> SecretStr:
        keys = split(text.get_secret_value())
        if not all(key.isascii() and key.isprintable() for key in keys):  # RFC 9110, 5.5: of others few agree
            raise ValueError(
                "a key has a character that is not sent in a header; use English letters and digits, or make "
                "one with openssl rand -hex 16"
            )
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise ValueError(
                f"a key has fewer than {SHORTEST_KEY} characters; make one with openssl rand -hex 16"
            )
        return text


def mistyped(variables: Iterable[str]) -> dict[str, str]:
    """Environment variables that nothing reads, though they begin as those of settings do and are much like
    one of them, with the one that may be meant."""
    known = [name.upper() for name in (*Settings.model_fields, *OF_COMMANDS)]
    ours = [name for name in variables if name.upper().startswith(PREFIX)]
    found = {name: name.upper().removeprefix(PREFIX) for name in ours}
    near = {name: get_close_matches(end, known, 1, ALIKE) for name, end in found.items() if end not in known}
    return {name: PREFIX + matches[0] for name, matches in near.items() if matches}
