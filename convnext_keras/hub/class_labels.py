"""The classes of a description: how many there are, their names, and whether they exclude each other."""

from typing import Any

from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.json_schema import JsonObject
from convnext_keras.problem_types import MULTI_LABEL, PROBLEM_TYPES, SINGLE_LABEL

MAX_CLASSES = 1_000_000
parse_num_classes = schema.int_range(0, MAX_CLASSES)


def read_problem_type(config: JsonObject, classes: int) -> str | None:
    """Reads the problem type of a classifier: one label, unless the config states another; None without classes."""
    words = schema.choice({name: name for name in PROBLEM_TYPES})
    kind = config.read("problem_type", schema.optional(words)) or SINGLE_LABEL
    if not classes:
        return None
    return MULTI_LABEL if (classes, kind) == (1, SINGLE_LABEL) else kind  # The softmax of one number is always 1.


def parse_names(value: Any) -> tuple[str, ...]:
    """Returns a list of texts."""
    return schema.list_of(schema.parse_str, range(MAX_CLASSES + 1))(value)


def parse_id2label(value: Any) -> dict[int, str]:
    """Returns an object of texts, by whole numbers that are written as text."""
    try:
        return {parse_index_key(key): schema.parse_str(item) for key, item in schema.parse_object(value).items()}
    except ValueError as error:
        raise ValueError("a list of texts, or an object of texts by whole numbers") from error


def parse_index_key(key: str) -> int:
    """Returns a whole number that is written as text.

    Raises:
        ValueError: If it is not one below `MAX_CLASSES`.
    """
    if not (key.isascii() and key.isdecimal() and len(key) <= 7 and int(key) < MAX_CLASSES):
        raise ValueError("a whole number as text")
    return int(key)


def parse_text_mapping(value: Any) -> dict[str, str]:
    """Returns an object of texts."""
    return {key: schema.parse_str(item) for key, item in schema.parse_object(value).items()}
