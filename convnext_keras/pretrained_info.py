"""Where a model's weights come from, and the class of models that remember it and predict without delay."""

import dataclasses
from pathlib import Path
from typing import Any

from convnext_keras.data.transforms import ImageTransform, NormalizationStats


@dataclasses.dataclass(frozen=True)
class PretrainedInfo:
    """Where a model's weights come from, as `model.pretrained_info`.

    Attributes:
        file: path of the file; only its name in a model that was saved and loaded again; None for a model that was
            trained from random weights.
        sha256: of the file, 64 hexadecimal digits; empty if there is none.
        weights: name of the weight set, or of the repository or folder that describes them; None for a lone file. Of
            a model that was trained further, those that it started from.
        license: of the weights, None if unknown.
        transform: evaluation transform of the weight set, None if unknown.
        labels: name of the label set of the model's classes, or each class as `(identifier, name)`; None if unknown or
            the head is fresh.
    """

    file: Path | None = None
    sha256: str = ""
    weights: str | None = None
    license: str | None = None
    transform: ImageTransform | None = None
    labels: str | tuple[tuple[str, str], ...] | None = None

    def to_config(self) -> dict[str, Any]:
        """The pretrained_info as plain data, for a model's configuration; without the folder, which is this machine's."""
        transform = self.transform and {
            name: tuples_to_lists(value) for name, value in self.transform._asdict().items()
        }
        return {
            **vars(self),
            "file": self.file and self.file.name,
            "transform": transform,
            "labels": tuples_to_lists(self.labels),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PretrainedInfo":
        """The reverse of `to_config`; other keys are left alone."""
        config = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        fields = {name: _lists_to_tuples(value) for name, value in (config["transform"] or {}).items()}
        if isinstance(fields.get("statistics"), tuple):
            fields["statistics"] = NormalizationStats(*fields["statistics"])
        known = {"file": config["file"] and Path(config["file"]), "labels": _lists_to_tuples(config["labels"])}
        return cls(**{**config, **known, "transform": ImageTransform(**fields) if fields else None})


def tuples_to_lists(value: Any) -> Any:
    """A value with lists in place of tuples, also inside, as JSON has them."""
    return [tuples_to_lists(item) for item in value] if isinstance(value, tuple) else value


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list | tuple) else value
