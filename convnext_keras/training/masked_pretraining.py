"""Masked pre-training of a backbone on images without labels: FCMAE of ConvNeXt V2, in its dense form.

"ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders" (https://arxiv.org/abs/2301.00808v1): 60 % of
the patches are hidden, a decoder of one block predicts their pixels, and is discarded afterwards. The paper computes
with sparse convolutions; multiplying by the mask in front of each spatial operation gives the same numbers (its section
3), and needs no other library.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from convnext_keras.configs import ConvNeXtConfig
from convnext_keras.constructors import create_model
from convnext_keras.convnext import BuildContext, convnext_block
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.feature_extraction import stage_outputs
from convnext_keras.layer_names import parse_layer_name
from convnext_keras.layers import register
from convnext_keras.model import get_pretrained_info
from convnext_keras.problem_types import REGRESSION
from convnext_keras.surgery import to_functional
from convnext_keras.training.batching import num_epochs, steps_per_epoch, training_batches
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.distillation import to_images
from convnext_keras.training.finetuning import compile_model
from convnext_keras.training.presets import TrainingConfig

# Optimizer, weight decay and crops are those of the paper's appendix, which trains for 800 or 1600 epochs with batches
# of 4096 images and a learning rate of 1.5e-4 for each 256. These values are for a small data set on one machine.
PRETRAINING_CONFIG = TrainingConfig(
    epochs=100, batch_size=64, learning_rate=1e-3, warmup_ratio=0.05, weight_decay=0.05, crop_scale=(0.2, 1.0)
)
DECODER_DIM = 512
VARIANCE_EPSILON = 1e-6


class PretrainingResult(NamedTuple):
    """A backbone after masked pre-training.

    Attributes:
        model: The backbone, whose layers were trained; the decoder is discarded.
        history: Mean loss of each epoch: the squared error of hidden pixels, where 1 is that of each patch's mean.

    Example:
        >>> PretrainingResult(keras.Sequential(), [0.9, 0.7]).history[-1]
        0.7
    """

    model: keras.Model
    history: list[float]


@register
class MaskToken(keras.layers.Layer):
    """Puts a learned vector in the place of hidden positions.

    Example:
        >>> layer = MaskToken()
        >>> layer(np.ones((1, 2, 2, 3)), np.zeros((1, 2, 2, 1))).shape[-1]
        3
    """

    def build(self, features_shape, visible_shape):
        """Creates the vector."""
        self.token = self.add_weight(shape=(features_shape[-1],), initializer="zeros", name="token")
        self.built = True

    def call(self, features, visible):
        """Returns features `(N, h, w, C)` where `visible` `(N, h, w, 1)` is 1, and the vector where it is 0."""
        return features * visible + self.token * (1 - visible)


class MaskedPixelLoss(keras.losses.Loss):
    """Mean squared error of the pixels of hidden patches, each patch normalized by its own mean and deviation.

    The targets are pixels and, as the last channel, 1 for hidden patches.
    """

    def call(self, y_true, y_pred):
        """Returns the loss of each image of targets `(N, h, w, P + 1)` and predictions `(N, h, w, P)`."""
        pixels, hidden = y_true[..., :-1], y_true[..., -1]
        mean = ops.mean(pixels, axis=-1, keepdims=True)
        variance = ops.var(pixels, axis=-1, keepdims=True)
        normalized = (pixels - mean) / ops.sqrt(variance + VARIANCE_EPSILON)
        error = ops.mean(ops.square(y_pred - normalized), axis=-1)
        return ops.sum(error * hidden, axis=(1, 2)) / ops.maximum(ops.sum(hidden, axis=(1, 2)), 1)


def pretrain(
    model: keras.Model | str,
    images: Any,
    config: TrainingConfig | None = None,
    *,
    mask_ratio: float = 0.6,
    decoder_dim: int = DECODER_DIM,
    image_size: int | None = None,
    seed: int = 0,
    verbose: Any = "auto",
) -> PretrainingResult:
    """Trains a backbone to predict the hidden parts of images, which need no labels.

    Fine-tune the result with `fine_tune(result.model, labeled_images)`.

    Args:
        model: A model of this library, whose layers up to its last stage are trained in place; or the name of a
            variant, such as `"convnextv2_atto"`, for a new one with random weights.
        images: A directory of images with its subdirectories, a sequence of images, or see `load_dataset`.
        config: Duration, batches, optimizer, and augmentation; None for `PRETRAINING_CONFIG`, 100
            epochs at a learning rate of 0.001. Losses, labels and heads have no effect.
        mask_ratio: Fraction 0..1 of the patches that are hidden, at least one of them and not all.
        decoder_dim: Channels of the decoder.
        image_size: Height and width in pixels of a new model, a multiple of its stride; None for that of the variant.
        seed: Seed of batches, augmentation and masks. For the initial weights use `keras.utils.set_random_seed`.
        verbose: See `keras.Model.fit`.

    Raises:
        ValueError: If an argument is not valid, the model has no stages, or its size is not a multiple of its stride.

    Example:
        >>> from convnext_keras import training
        >>> images = [np.full((32, 32, 3), level, "uint8") for level in range(0, 240, 30)]
        >>> config = training.TrainingConfig(epochs=1, batch_size=4)
        >>> result = training.pretrain("convnext_mini", images, config, image_size=64, decoder_dim=32, verbose=0)
        >>> result.model.output_shape, len(result.history)
        ((None, 128), 1)
    """
    config = PRETRAINING_CONFIG if config is None else config
    if isinstance(model, str):
        size = {} if image_size is None else {"input_shape": (image_size, image_size, 3)}
        backbone: keras.Model = create_model(model, weights=None, include_top=False, pooling="avg", **size)
    elif image_size is not None:
        raise ValueError(f"A model has its size already. Received: image_size={image_size}")
    else:
        backbone = model
    network, grid, patch = masked_autoencoder(backbone, decoder_dim)
    hidden = min(max(1, round(mask_ratio * grid[0] * grid[1])), grid[0] * grid[1] - 1)
    if not 0 < mask_ratio < 1 or hidden < 1:
        raise ValueError(
            f"mask_ratio must be above 0 and below 1, for two patches or more. Received: mask_ratio={mask_ratio} and "
            f"{grid[0]} x {grid[1]} patches of {patch} pixels"
        )
    sources = to_images(images)
    sources = sources.images if isinstance(sources, ImageDataset) else sources
    examples = ImageDataset(sources, np.zeros((len(sources), 1), "float32"), ("none",), problem_type=REGRESSION)
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(examples)), mixup=0.0, cutmix=0.0)
    epochs, steps = num_epochs(examples, config), steps_per_epoch(examples, config)
    known = get_pretrained_info(backbone)
    transform = (known and known.transform) or ImageTransform(224)
    transform = transform._replace(size=backbone.input_shape[1:3], resize_size=None)
    compile_model(network, config, epochs * steps, MaskedPixelLoss())
    batches = masked_batches(training_batches(examples, config, transform, seed), grid, patch, hidden, seed)
    history: Any = network.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=verbose)
    return PretrainingResult(backbone, [float(loss) for loss in history.history["loss"]])


def masked_batches(
    batches: Iterator[tuple[np.ndarray, ...]], grid: tuple[int, int], patch: int, hidden: int, seed: int
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
    """Yields pixels with a mask of what is visible, and the targets of `MaskedPixelLoss`.

    Args:
        batches: Pixels `(N, H, W, C)` and what belongs to them.
        grid: Rows and columns of patches.
        patch: Height and width of a patch in pixels.
        hidden: Number of hidden patches of each image.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng((seed, 2))
    for pixels, *_ in batches:
        count, channels = len(pixels), pixels.shape[-1]
        mask = np.arange(grid[0] * grid[1]) >= hidden
        visible = rng.permuted(np.tile(mask, (count, 1)), axis=1).reshape(count, *grid, 1).astype("float32")
        patches = pixels.reshape(count, grid[0], patch, grid[1], patch, channels).transpose(0, 1, 3, 2, 4, 5)
        targets = np.concatenate([patches.reshape(count, *grid, -1) / 255, 1 - visible], axis=-1).astype("float32")
        yield (pixels.astype("float32"), visible), targets


def masked_autoencoder(model: keras.Model, decoder_dim: int) -> tuple[keras.Model, tuple[int, int], int]:
    """Builds the network that predicts hidden patches, on the layers of a backbone.

    Returns:
        A model of pixels and a mask `(N, h, w, 1)`, 1 where a patch is visible, to `(N, h, w, patch * patch * C)`; the
        rows and columns of patches; and the height and width of a patch, the stride of the backbone.
    """
    model = to_functional(model)
    if keras.config.image_data_format() == "channels_first":
        raise ValueError("Pre-training takes models with the channels last. Call keras.config.set_image_data_format.")
    _, outputs = stage_outputs(model)
    last = max(outputs, default=None)
    if last is None or not any(parse_layer_name(layer.name) for layer in model.layers):
        raise ValueError(f"{model.name!r} has no stages of a ConvNeXt. Pass the backbone itself.")
    height, width, channels = model.input_shape[1:]
    if None in (height, width):
        raise ValueError(f"{model.name!r} takes images of any size. Build it with input_shape=(height, width, 3).")
    grid = outputs[last].shape[1:3]
    patch = height // grid[0]
    if grid[0] * patch != height or grid[1] * patch != width:
        raise ValueError(f"Images must be multiples of the stride, {patch} pixels. Received: {height} x {width}")
    pixels, visible = keras.Input((height, width, channels), name="pixels"), keras.Input((*grid, 1), name="visible")
    x = encode_visible(model, pixels, visible, grid, last_layer=outputs[last]._keras_history.operation)
    variant = ConvNeXtConfig((1, 1, 1, 1), (decoder_dim,) * 4, use_grn=True, layer_scale=False)
    design = BuildContext(variant, "mask_decoder", 0.0, None, 32, None)
    x = keras.layers.Dense(decoder_dim, name="mask_decoder_projection")(x)
    x = convnext_block(MaskToken(name="mask_decoder_token")(x, visible), 0, 0, 0.0, design)
    predicted = keras.layers.Dense(patch * patch * channels, name="mask_decoder_pixels")(x)
    return keras.Model([pixels, visible], predicted, name="masked_autoencoder"), tuple(grid), patch


def encode_visible(model: keras.Model, pixels: Any, visible: Any, grid: tuple[int, int], last_layer: Any) -> Any:
    """Returns the output of the last stage for visible patches, 0 elsewhere, as sparse convolutions give it.

    Args:
        model: The backbone: layers one after the other, with an addition at the end of each block.
        pixels: Symbolic pixels.
        visible: Symbolic mask `(N, *grid, 1)`.
        grid: Rows and columns of patches.
        last_layer: Layer that ends the last stage.
    """

    def masked(x: Any) -> Any:
        rows, columns = x.shape[1] // grid[0], x.shape[2] // grid[1]
        return x * ops.repeat(ops.repeat(visible, rows, axis=1), columns, axis=2)

    x = shortcut = pixels
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        reading = parse_layer_name(layer.name)
        role = reading[1].role if reading else ""
        if role == "depthwise_conv":
            shortcut = x
        if role == "grn" or role.startswith("stem"):  # statistics and overlapping kernels see visible positions only
            x = masked(x)
        x = layer([shortcut, x] if role == "add" else x)
        if role == "add" or "downsampling" in role or role.startswith("stem"):
            x = masked(x)
        if layer is last_layer:
            break
    return x
