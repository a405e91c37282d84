"""Examples for /docs."""

from typing import Any, Unpack

from pydantic import ConfigDict


def with_example(example: dict[str, Any], **config: Unpack[ConfigDict]) -> ConfigDict:
    """The configuration of a model that has an example."""
    return ConfigDict(json_schema_extra={"examples": [example]}, **config)
