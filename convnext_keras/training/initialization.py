"""Initial model of a training run: a classifier for the classes of the data, from a name or a model."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convnext_keras.constructors import create_model
from convnext_keras.data.transforms import ImageTransform as Transform
from convnext_keras.hub import is_clip_repo
from convnext_keras.initializers import Normal
from convnext_keras.layer_names import BLOCK_ROLES, DOWNSAMPLING_ROLES, LayerName, parse_layer_name
from convnext_keras.model import ConvNeXtModel, get_pretrained_info, has_activation, output_layer
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.problem_types import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from convnext_keras.surgery import clone_graph, flatten_layers, merge_lora, to_functional
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.evaluation import get_class_names
from convnext_keras.training.presets import TrainingConfig
from convnext_keras.training.regression import Standardization


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """Classifier, and its copy for training.

    Attributes:
        model: Model from pixels to scores of the classes, or logits for a model that was given so.
        train_model: Copy with the same weights, to logits, with stochastic depth and in the precision of the config. A
            loss of logits is exact for confident models too, and what serves inference stays as simple as it was.
        reuses_head: Whether the classifier knew these classes already.
        transform: Evaluation transform.
        origin: Where the weights come from, as plain data.
        standardization: Of the targets of a regression, which `train_model` predicts standardized; None for others.
    """

    model: ConvNeXtModel
    train_model: keras.Model
    reuses_head: bool
    transform: Transform
    origin: tuple[str, str]
    standardization: Standardization | None = None

    def begin(self) -> None:
        """Copies the weights of the model into `train_model`."""
        self.train_model.set_weights(self.model.get_weights())
        if self.standardization:
            self.standardization.unfold_from(output_layer(self.train_model))

    def commit(self) -> None:
        """Copies the weights of `train_model` into the model."""
        self.model.set_weights(merge_lora(self.train_model).get_weights())
        if self.standardization:
            self.standardization.fold_into(output_layer(self.model))


def prepare_model(
    given: keras.Model | str | Any, examples: ImageDataset, config: TrainingConfig, size: int | None = None
) -> TrainingSetup:
    """Returns a classifier for the classes of a dataset.

    Args:
        given: The name of a weight set, variant, repository or folder; or a model: a classifier for these classes, or
            a backbone, which gets a new head.
        examples: The training images.
        config: How it is going to be trained.
        size: Height and width in pixels, by default those of the weights.

    Raises:
        ValueError: If a model is of other classes, or ends otherwise.
    """
    class_names, problem_type = examples.class_names, examples.problem_type
    standardization = Standardization.fit(examples.labels) if problem_type == REGRESSION else None
    has_head = False
    is_named = not isinstance(given, keras.Model) and Path(str(given)).suffix != ".keras"
    if is_named and is_clip_repo(str(given)):
        raise ValueError(
            f"{given} is a ConvNeXt-CLIP, which is trained on images with texts: use fine_tune_clip with "
            "class_prompts(load_dataset(DATA)), or a .csv of paths and captions. For a classifier, start from the "
            "weights of a classifier."
        )
    if is_named:
        random = {"weights": None} if not config.pretrained else {}
        activation = PROBLEM_TYPES[problem_type]
        model = _build(str(given), len(class_names), size, classifier_activation=activation, **random)
        dtype = None if config.precision == "float32" else config.precision
        options = {"drop_path_rate": config.drop_path_rate or 0.0, "classifier_activation": None, "dtype": dtype}
        train_model = _build(str(given), len(class_names), size, **options, **random)
    elif not config.pretrained:
        raise ValueError("pretrained=False needs the name of an architecture. A model is trained with its own weights.")
    else:
        source = given if isinstance(given, keras.Model) else create_model(given)
        has_head = isinstance(output_layer(source), keras.layers.Dense)
        model = _with_head(source, examples)
        train_model = _with_logits(model)
        if config.precision != "float32" and config.precision not in {x.dtype_policy.name for x in model.layers}:
            raise ValueError(
                f"precision={config.precision!r} needs a model that was made so: give its name, or build it with "
                f"dtype={config.precision!r}."
            )
    pretrained_info = get_pretrained_info(model)
    same_problem = pretrained_info is not None and (pretrained_info.problem_type or SINGLE_LABEL) == problem_type
    known = get_class_names(pretrained_info) if same_problem else None
    order = _class_permutation(class_names, known)
    if not is_named and known and order is None:
        shown = ", ".join(name for _, name in known[:5])
        raise ValueError(
            f"The classes of {model.name!r} are {shown}, those of the images {', '.join(class_names[:5])}. To train "
            "a new classifier, give the name of the weights, or a model with include_top=False."
        )
    if is_named:
        _init_head(model, order)
    if standardization and (order is None if is_named else not has_head):
        standardization.fold_into(output_layer(model))
    transform = _transform(model, pretrained_info, size)
    model.pretrained_info = dataclasses.replace(
        pretrained_info or PretrainedInfo(),
        class_names=tuple((name, name) for name in class_names),
        transform=transform,
        problem_type=problem_type,
        thresholds=None,
        categories=None,
    )
    origin = (model.pretrained_info.weights_name or model.name, model.pretrained_info.sha256)
    return TrainingSetup(model, train_model, order is not None, transform, origin, standardization)


def _build(name: str, classes: int, size: int | None, **others: Any) -> ConvNeXtModel:
    options = {"classes": classes, "include_top": True, **others}
    options |= {"input_shape": (size, size, 3)} if size else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fresh random weights")  # That is what is wanted.
        return create_model(name, **options)


def _with_head(model: keras.Model, examples: ImageDataset) -> ConvNeXtModel:
    """Returns the model itself, or with a classifier on a backbone, as one that keeps its pretrained_info."""
    model, classes, activation = to_functional(model), len(examples.class_names), PROBLEM_TYPES[examples.problem_type]
    outputs: Any = model.output
    end: Any = output_layer(model)
    ends_in_dense = isinstance(end, keras.layers.Dense)
    if isinstance(end, keras.layers.Activation | keras.layers.Softmax) or (
        ends_in_dense and end is not model.layers[-1]
    ):
        raise ValueError(
            f"The classifier of {model.name!r} must be a Dense layer, the last of the model itself, with its "
            f"activation inside. Received: {'one in a model that is a layer' if ends_in_dense else 'an activation'}"
        )
    if ends_in_dense and outputs.shape[-1] != classes:
        raise ValueError(
            f"{model.name!r} has {outputs.shape[-1]} outputs, the images {classes} classes. Give the name of the "
            "weights, or a model with include_top=False."
        )
    if not ends_in_dense:
        outputs = keras.layers.GlobalAveragePooling2D()(outputs) if len(outputs.shape) == 4 else outputs
        outputs = keras.layers.Dense(classes, activation, name="classifier", dtype="float32")(outputs)
    elif end.activation not in (keras.activations.get(activation), keras.activations.linear):
        raise ValueError(
            f"The last layer of {model.name!r} must have {activation or 'no activation'} for {examples.problem_type}. "
            f"Received: {keras.activations.serialize(end.activation)}"
        )
    elif isinstance(model, ConvNeXtModel):
        return model
    whole = ConvNeXtModel(model.input, outputs, name=model.name)
    known = get_pretrained_info(model)
    whole.pretrained_info = known and (known if ends_in_dense else dataclasses.replace(known, class_names=None))
    return whole


def _with_logits(model: keras.Model) -> keras.Model:
    """Returns a copy of a model without the last activation, with weights of its own."""

    def made(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer is model.layers[-1] and has_activation(model):
            config |= {"activation": "linear"}
        return type(layer).from_config(config)

    return clone_graph(model, made, lambda layer, *args, **kwargs: layer(*args, **kwargs))


def _class_permutation(class_names: tuple[str, ...], known: tuple[tuple[str, str], ...] | None) -> list[int] | None:
    """Returns the index of each class among the known ones; None if the classes differ."""
    if known is None or len(known) != len(class_names):
        return None
    indices = {word: index for index, words in enumerate(known) for word in words}
    order = [indices[name] for name in class_names if name in indices]
    return order if len({*order}) == len(known) else None


def _init_head(model: keras.Model, order: list[int] | None) -> None:
    """Sorts the outputs of a classifier that knows the classes, and makes one that does not a fresh one."""
    head: Any = output_layer(model)
    kernel, bias = head.get_weights()
    if order is None:
        initializer = Normal()
        head.set_weights([keras.ops.convert_to_numpy(initializer(kernel.shape)), np.zeros_like(bias)])
    else:
        head.set_weights([kernel[:, order], bias[order]])


def _transform(model: keras.Model, pretrained_info: PretrainedInfo | None, size: int | None) -> Transform:
    """Returns the evaluation transform at the size that the model takes or is asked for."""
    transform = (pretrained_info and pretrained_info.transform) or Transform(size or 224)
    last = keras.config.image_data_format() == "channels_last"
    height, width = model.input_shape[1:3] if last else model.input_shape[2:4]
    if size:
        return transform._replace(size=size, resize_size=None)
    if height is None or (height, width) == transform.shape[:2]:
        return transform
    return transform._replace(size=height if height == width else (height, width), resize_size=None)


@contextlib.contextmanager
def freeze_stages(model: keras.Model, stages: int) -> Iterator[None]:
    """Freezes the first `stages` stages inside the context."""
    chosen = [layer for layer in flatten_layers(model) if layer.trainable and _stage(layer) < stages]
    for layer in chosen:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in chosen:
            layer.trainable = True


def _stage(layer: keras.Layer) -> int:
    """Returns the stage of a layer, with the downsampling before it; 4 for the head and custom layers."""
    name = (parse_layer_name(layer.name) or ("", LayerName(layer.name, is_custom=True)))[1]
    if name.is_custom:
        return 4
    if name.role in BLOCK_ROLES:
        return name.stage
    if name.role in DOWNSAMPLING_ROLES:
        return name.stage + 1
    return 0 if name.role.startswith(("stem", "first_downsampling")) else 4
