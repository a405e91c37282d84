"""The service's settings: read once, from environment variables that begin with HEBBSEARCH_."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "HEBBSEARCH_"
SHORTEST_KEY = 16


class Settings(BaseSettings):
    """HEBBSEARCH_ARTIFACT is required; the rest has defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    artifact: Path  # folder that build_index.py made
    max_image_bytes: int = Field(default=10_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    # Searches under way or waiting; more are turned away with 503. Each may hold max_image_bytes.
    queue: int = Field(default=128, ge=1)
    # Large images decoded at the same time. Small ones, of up to 2^18 pixels, have their own processes.
    concurrency: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    # For one image. 24 bytes a pixel are enough.
    decoding_seconds: int = Field(default=20, ge=1)
    decoding_memory: int = Field(default=1_500_000_000, ge=2**20)
    # Images in one request that adds some, and their bytes together.
    max_batch: int = Field(default=64, ge=1)
    max_batch_bytes: int = Field(default=100_000_000, ge=1)
    log: Literal["json", "text"] = "json"  # how each line is written
    keep_originals: bool = True  # the files of images that are sent
    # How much less mAP another artifact may reach than the one it replaces, on images that both hold out.
    reload_margin: float = Field(default=0.02, ge=0, le=1)
    # Names by which the service may be asked for, separated by commas. None: any, but from this machine and
    # through proxies, while there are no keys, only this machine's own.
    hosts: str = ""
    # Separated by commas. Without any key, only this machine may change anything; without read keys, anyone
    # who reaches the service may read.
    read_keys: SecretStr = SecretStr("")
    write_keys: SecretStr = SecretStr("")
    admin_keys: SecretStr = SecretStr("")

    @field_validator("read_keys", "write_keys", "admin_keys")
    @classmethod
    def _long_enough(cls, text: SecretStr) -> SecretStr:
        if any(len(key.strip()) < SHORTEST_KEY for key in text.get_secret_value().split(",") if key.strip()):
            raise ValueError(
                f"a key has fewer than {SHORTEST_KEY} characters; make one with openssl rand -hex 16"
            )
        return text
