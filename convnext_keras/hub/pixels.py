"""What descriptions have in common about pictures: the statistics of their channels, and limits of their sizes."""

from typing import Any

from convnext_keras.hub import fields
from convnext_keras.hub.fields import Fields
from convnext_keras.preprocessing import STATISTICS, Statistics

MAX_SIZE, MAX_EDGE = 4_096, 8_192  # pixels of a picture for the model, and before it is cropped


def read_statistics(place: Fields, keys: tuple[str, str], channels: int, default: str) -> str | Statistics:
    """Mean and standard deviation of each channel, by their name if they have one.

    Args:
        place: where they stand.
        keys: of the means and of the deviations; a number, or a list of them.
        channels: of the pictures. One number stands for all; for grey pictures, three stand for their mean, as timm
            has it.
        default: the name of those that are meant where none are given.
    """
    readings = (fields.number(-1e6, 1e6), fields.number(1e-6, 1e6))
    rows = [
        _read_channels(place, key, reading, channels, row)
        for key, reading, row in zip(keys, readings, STATISTICS[default], strict=True)
    ]
    return named_statistics(Statistics(*rows))


def named_statistics(statistics: Statistics) -> str | Statistics:
    """The name of statistics that have one, or themselves."""
    return next((name for name, row in STATISTICS.items() if row == statistics), statistics)


def _read_channels(place: Fields, key: str, reading: fields.Reading, channels: int, default: Any) -> tuple[float, ...]:
    lengths = range(1, max(3, channels) + 1)
    one_or_many = fields.either(fields.several(reading, lengths), lambda value: (reading(value),))
    values = place.read(key, fields.optional(one_or_many)) or default
    if channels == 1:
        return (sum(values) / len(values),)
    if len(values) not in (1, channels):
        raise place.error(key, f"one number, or {channels}, one for each channel")
    return values * channels if len(values) == 1 else values
