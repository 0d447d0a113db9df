"""Strict parsing of JSON configs. Each error names the file, the key, the value and the valid values.

Configs are untrusted data: no class or other file that they name is loaded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convnext_keras.checkpoints import WeightsError
from convnext_keras.checkpoints.shards import read_json_object
from convnext_keras.validation import suggestion

MAX_BYTES = 10_000_000  # of a description; the names of 22,000 classes are about 1 MB
MAX_NESTING = 20
MAX_SHOWN = 80  # characters of a value in an error

# Takes a value and returns what it means, or raises ValueError with words for what is valid.
Parser = Callable[[Any], Any]


class JsonObject(NamedTuple):
    """Object of a JSON file: the file, the values, and the keys that lead to it."""

    path: Path
    values: Mapping[str, Any]
    place: str = ""

    def read(self, key: str, reading: Parser, default: Any = None) -> Any:
        """Returns the value of a key by a reading, or the default if the key is absent.

        Raises:
            WeightsError: If the value is not valid.
        """
        if key not in self.values:
            return default
        try:
            return reading(self.values[key])
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def section(self, key: str) -> "JsonObject":
        """Returns the object at a key; an empty one if it is absent."""
        return JsonObject(self.path, self.read(key, parse_object, {}), f"{self.place}{key}.")

    def error(self, key: str, valid: str) -> WeightsError:
        """Returns the error for a key: its value, or that it is missing, and the valid values."""
        value = repr(self.values[key]) if key in self.values else "missing"
        shown = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
        return WeightsError(f"{self.path}: {self.place}{key} is {shown}; it must be {valid}.")

    def reject_unknown_keys(self, known: Sequence[str], what: str) -> None:
        """Raises WeightsError if there is a key that nothing is known of."""
        for key in self.values.keys() - set(known):
            hint = suggestion(key, known)
            raise WeightsError(f"{self.path}: {self.place}{key} is no {what}. Known: {', '.join(sorted(known))}.{hint}")


def read_json(path: Path) -> JsonObject:
    """Returns the description in a file.

    Raises:
        WeightsError: If it is not a JSON object of at most `MAX_BYTES`, nested `MAX_NESTING` deep.
    """
    values = read_json_object(path, MAX_BYTES)
    level: list[Any] = [values]
    for _ in range(MAX_NESTING):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [item for part in parts for item in part]
    if level:
        raise WeightsError(f"{path}: is nested more than {MAX_NESTING} deep.")
    return JsonObject(path, values)


def parse_object(value: Any) -> Mapping[str, Any]:
    """Returns an object of JSON."""
    if not isinstance(value, Mapping):
        raise ValueError("an object")
    return value


def parse_bool(value: Any) -> bool:
    """Parses true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def parse_str(value: Any) -> str:
    """Parses a string of at most 1,000 characters."""
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("a text of at most 1,000 characters")
    return value


def int_range(low: int, high: int) -> Parser:
    """Returns a whole number in a range."""

    def reading(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number {low}..{high}")
        return value

    return reading


def float_range(low: float, high: float) -> Parser:
    """Returns a finite number in a range."""

    def reading(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"a number {low}..{high}")
        return float(value)

    return reading


def optional(inner: Parser) -> Parser:
    """Returns a parser that also accepts null, as None."""

    def reading(value: Any) -> Any:
        try:
            return None if value is None else inner(value)
        except ValueError as error:
            raise ValueError(f"null, or {error}") from error

    return reading


def choice(meanings: Mapping[str, Any]) -> Parser:
    """Returns a parser for one of several strings, each with a meaning."""

    def reading(value: Any) -> Any:
        if not isinstance(value, str) or value not in meanings:
            raise ValueError(f"one of {', '.join(map(repr, meanings))}")
        return meanings[value]

    return reading


def int_choice(numbers: Sequence[int]) -> Parser:
    """Returns one of some whole numbers."""

    def reading(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value not in numbers:
            raise ValueError(f"one of {', '.join(map(str, numbers))}")
        return value

    return reading


def list_of(inner: Parser, lengths: Sequence[int] | range) -> Parser:
    """Returns a list of valid length of what another reading takes, as a tuple."""

    def reading(value: Any) -> tuple:
        valid = f"{lengths[0]}..{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"
        if not isinstance(value, list) or len(value) not in lengths:
            raise ValueError(f"a list of {valid}")
        try:
            return tuple(inner(item) for item in value)
        except ValueError as error:
            raise ValueError(f"a list of {valid}, each {error}") from error

    return reading


def either(first: Parser, second: Parser) -> Parser:
    """Returns a parser that accepts what one of two parsers accepts."""

    def reading(value: Any) -> Any:
        try:
            return first(value)
        except ValueError as error:
            try:
                return second(value)
            except ValueError as other:
                raise ValueError(f"{error}, or {other}") from other

    return reading


parse_epsilon = float_range(math.ulp(0.0), 1.0)
