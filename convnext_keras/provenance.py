"""Where a model's weights come from, and the class of models that remember it and predict without delay."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras import kernels
from convnext_keras.layers import register
from convnext_keras.preprocessing import Recipe, Statistics

PREDICT_BATCH = 32  # of Keras' `predict`, if none is given


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


@register
class ModelWithProvenance(keras.Model):
    """A functional model that knows where its weights come from, also after it was saved and loaded again.

    Its `predict` is Keras', by the backend's quickest way.

    Attributes:
        provenance: None if the weights are random.

    Example:
        >>> from convnext_keras import create_model
        >>> create_model("convnext_mini.digits").provenance.license
        'apache-2.0'
    """

    provenance: Provenance | None = None

    def predict_step(self, *arguments: Any) -> Any:
        """Outputs of a batch, which is the last argument; JAX has the model's state before it."""
        if kernels.infer is None:
            return super().predict_step(*arguments)
        return kernels.infer(self, keras.utils.unpack_x_y_sample_weight(arguments[-1])[0])

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """As Keras has it."""
        rows = len(x) if isinstance(x, np.ndarray) and x.ndim else 0
        is_one_batch = 0 < rows <= (batch_size or PREDICT_BATCH)
        if is_one_batch and verbose == 0 and steps is callbacks is None and kernels.starts_slowly(self):
            return self.predict_on_batch(x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def get_config(self) -> dict[str, Any]:
        """The functional model's configuration and the provenance."""
        return {**super().get_config(), "provenance": self.provenance and self.provenance.to_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> keras.Model:
        """The reverse of `get_config`."""
        provenance = config.get("provenance")
        functional = {key: value for key, value in config.items() if key != "provenance"}
        model = super().from_config(functional, custom_objects)
        model.provenance = provenance and Provenance.from_config(provenance)
        return model


def provenance_of(model: keras.Model) -> Provenance | None:
    """Of a model, or of the model of this library that is one of its layers, whose classes are not the model's."""
    if isinstance(model, ModelWithProvenance):
        return model.provenance
    inner = (layer.provenance for layer in model.layers if isinstance(layer, ModelWithProvenance))
    return next((dataclasses.replace(provenance, labels=None) for provenance in inner if provenance), None)


# Whole-model .h5 files name the class without its package.
keras.saving.get_custom_objects()[ModelWithProvenance.__name__] = ModelWithProvenance
