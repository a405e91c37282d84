"""The service's settings: read once, from environment variables that begin with HEBBSEARCH_."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "HEBBSEARCH_"


class Settings(BaseSettings):
    """HEBBSEARCH_ARTIFACT is required; the rest has defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    artifact: Path  # folder that build_index.py made
    max_image_bytes: int = Field(default=10_000_000, ge=1)
    max_pixels: int = Field(default=50_000_000, ge=1)
    # Searches under way or waiting; more are turned away with 503. Each may hold max_image_bytes.
    queue: int = Field(default=128, ge=1)
    # Large images decoded at the same time: each takes up to 4 bytes a pixel, often twice. Small ones, of up
    # to 2^18 pixels, are decoded by those who answer.
    concurrency: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
