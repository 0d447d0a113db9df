"""Origin of a model's weights, which the model keeps also after saving and loading."""

import dataclasses
from pathlib import Path
from typing import Any

from convnext_keras.data.class_names import ClassNames, find_label_set, resolve_class_names
from convnext_keras.data.transforms import ImageTransform, NormalizationStats


@dataclasses.dataclass(frozen=True)
class PretrainedInfo:
    """Origin of a model's weights, available as `model.pretrained_info`.

    Attributes:
        weights_file: Path of the weight file. After saving and loading only its name. None for a model that was trained
            from random weights.
        sha256: SHA-256 of the file, 64 hexadecimal digits; empty without a file.
        weights_name: Name of the weight set, repository or folder; None for a single file. For a fine-tuned model, the
            name of the weights that training started from.
        license: License of the weights; None if unknown.
        transform: Evaluation transform of the weight set; None if unknown.
        class_names: One `(identifier, name)` per class; None if unknown, or if the head has random weights.
        reduce_labels: Whether class 0 of the masks that a segmentation model was trained on is ignored, and class 1
            there is its first.
        problem_type: Meaning of a classifier's outputs, a key of `PROBLEM_TYPES`. None for that of its activation; see
            `get_problem_type`.
        thresholds: Score of each class above which a multi-label classifier predicts it; None for 0.5.
        categories: Category of each class, such as `"character"`; None if unknown.
    """

    weights_file: Path | None = None
    sha256: str = ""
    weights_name: str | None = None
    license: str | None = None
    transform: ImageTransform | None = None
    class_names: ClassNames | None = None
    reduce_labels: bool = False
    problem_type: str | None = None
    thresholds: tuple[float, ...] | None = None
    categories: tuple[str, ...] | None = None

    def without_classes(self) -> "PretrainedInfo":
        """Returns the origin of a part of the model, without the names of its classes."""
        return dataclasses.replace(self, class_names=None, problem_type=None, thresholds=None, categories=None)

    def to_config(self) -> dict[str, Any]:
        """Returns plain data for a model's configuration, without the folder of the file.

        The classes of a published label set are stored by the name of the set.
        """
        transform = self.transform and {
            name: tuples_to_lists(value) for name, value in self.transform._asdict().items()
        }
        return {
            **vars(self),
            "weights_file": self.weights_file and self.weights_file.name,
            "transform": transform,
            "thresholds": tuples_to_lists(self.thresholds),
            "categories": tuples_to_lists(self.categories),
            "class_names": self.class_names and (find_label_set(self.class_names) or tuples_to_lists(self.class_names)),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PretrainedInfo":
        """Restores the object from the result of `to_config`. Other keys are ignored."""
        config = {field.name: config.get(field.name, field.default) for field in dataclasses.fields(cls)}
        fields = {name: _lists_to_tuples(value) for name, value in (config["transform"] or {}).items()}
        if isinstance(fields.get("statistics"), tuple):
            fields["statistics"] = NormalizationStats(*fields["statistics"])
        known = {
            "weights_file": config["weights_file"] and Path(config["weights_file"]),
            "class_names": resolve_class_names(_lists_to_tuples(config["class_names"])),
            "transform": ImageTransform(**fields) if fields else None,
            "thresholds": _lists_to_tuples(config["thresholds"]),
            "categories": _lists_to_tuples(config["categories"]),
        }
        return cls(**{**config, **known})


def tuples_to_lists(value: Any) -> Any:
    """Returns a value with lists in place of tuples, at all levels, as JSON stores them."""
    return [tuples_to_lists(item) for item in value] if isinstance(value, tuple) else value


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list | tuple) else value
