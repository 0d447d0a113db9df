"""Where a model's weights come from, and the class of models that remember it and predict without delay."""

import dataclasses
from pathlib import Path
from typing import Any

from convnext_keras.data.transforms import Recipe, Statistics


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from, as `model.provenance`.

    Attributes:
        file: path of the file; only its name in a model that was saved and loaded again; None for a model that was
            trained from random weights.
        sha256: of the file, 64 hexadecimal digits; empty if there is none.
        weights: name of the weight set, or of the repository or folder that describes them; None for a lone file. Of
            a model that was trained further, those that it started from.
        license: of the weights, None if unknown.
        recipe: evaluation transform of the weight set, None if unknown.
        labels: name of the label set of the model's classes, or each class as `(identifier, name)`; None if unknown or
            the head is fresh.
    """

    file: Path | None = None
    sha256: str = ""
    weights: str | None = None
    license: str | None = None
    recipe: Recipe | None = None
    labels: str | tuple[tuple[str, str], ...] | None = None

    def to_config(self) -> dict[str, Any]:
        """The provenance as plain data, for a model's configuration; without the folder, which is this machine's."""
        recipe = self.recipe and {name: as_lists(value) for name, value in self.recipe._asdict().items()}
        return {**vars(self), "file": self.file and self.file.name, "recipe": recipe, "labels": as_lists(self.labels)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Provenance":
        """The reverse of `to_config`; other keys are left alone."""
        config = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        fields = {name: _as_tuples(value) for name, value in (config["recipe"] or {}).items()}
        if isinstance(fields.get("statistics"), tuple):
            fields["statistics"] = Statistics(*fields["statistics"])
        known = {"file": config["file"] and Path(config["file"]), "labels": _as_tuples(config["labels"])}
        return cls(**{**config, **known, "recipe": Recipe(**fields) if fields else None})


def as_lists(value: Any) -> Any:
    """A value with lists in place of tuples, also inside, as JSON has them."""
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
