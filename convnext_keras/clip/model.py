"""ConvNeXt-CLIP: the two towers, embeddings, similarities and training.

"Learning Transferable Visual Models From Natural Language Supervision" (https://arxiv.org/abs/2103.00020v1) with a
ConvNeXt as the image tower, as LAION trained it with OpenCLIP (https://github.com/mlfoundations/open_clip).
"""

import functools
import hashlib
import math

import keras
import numpy as np
from keras import layers, ops

from convnext_keras import backend
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.inference import BatchRunner, l2_normalize, trim_padding
from convnext_keras.layers import register
from convnext_keras.model import ConvNeXtModel
from convnext_keras.surgery import require_deterministic

OPEN_CLIP_TRANSFORM = ImageTransform(224, statistics="clip", convert_rgb_first=False)
MAX_LOGIT_SCALE = math.log(100)
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
INITIAL_LOGIT_BIAS = -10.0  # of "Sigmoid Loss for Language Image Pre-Training" (https://arxiv.org/abs/2303.15343v4)


@register
class LogitScaleConstraint(keras.constraints.Constraint):
    """Clips the log of the logit scale to 0..ln 100, as in CLIP's training."""

    def __call__(self, weight):
        return ops.clip(weight, 0.0, MAX_LOGIT_SCALE)


@register
class CLIPHead(layers.Layer):
    """Scaled cosines of all pairs: embeddings of images `(N, D)` and texts `(M, D)` -> logits `(N, M)`.

    The factor is the exponential of the weight `logit_scale`, which training keeps at ln 100 or below. Where replicas
    or processes train together, the pairs are those of all of them, as in OpenCLIP's `gather_with_grad`.

    Args:
        use_bias: Whether the weight `logit_bias` is added, as the sigmoid loss needs it.
    """

    def __init__(self, use_bias: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.logit_bias = None

    def build(self, images_shape, texts_shape):
        initializer = keras.initializers.Constant(INITIAL_LOGIT_SCALE)
        self.logit_scale = self.add_weight(
            name="logit_scale", shape=(), initializer=initializer, constraint=LogitScaleConstraint()
        )
        if self.use_bias:
            initializer = keras.initializers.Constant(INITIAL_LOGIT_BIAS)
            self.logit_bias = self.add_weight(name="logit_bias", shape=(), initializer=initializer)

    def call(self, images, texts, training=False):
        images, texts = backend.all_gather(images, training), backend.all_gather(texts, training)
        cosines = ops.matmul(ops.normalize(images, axis=-1), ops.transpose(ops.normalize(texts, axis=-1)))
        logits = ops.exp(self.logit_scale) * cosines
        return logits if self.logit_bias is None else logits + self.logit_bias

    def get_config(self):
        return {**super().get_config(), "use_bias": self.use_bias}

    def compute_output_shape(self, images_shape, texts_shape):
        return (images_shape[0], texts_shape[0])


@register
class CLIP(DualEncoder, ConvNeXtModel):
    """Functional model from `{"images": (N, H, W, 3), "tokens": (M, L)}` to logits `(N, M)`.

    Pixels are in 0..255. Train it with `fit` and `ContrastiveLoss`, where N = M and each row is a pair.

    Attributes:
        image_encoder: Functional model from pixels to embeddings `(N, D)`, not normalized.
        text_encoder: Functional model from token ids to embeddings `(M, D)`, not normalized.
        embed_dim: `D`, the width of the embeddings.
        tokenizer: Strings to token ids.
        transform: The evaluation transform: an image in, pixels out.
        pretrained_info: Where the weights come from, None if they are random.
        scale: Factor from cosines to logits.
        bias: What is added to logits; 0 for models trained with CLIP's own loss.
        micro_batches: Parts in which `fit` encodes a batch, one after another and once more for the gradients, so that
            it takes the memory of one part. Loss and gradients are those of the whole batch, which must be a multiple
            ("Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
            https://arxiv.org/abs/2101.06983v2).

    Example:
        >>> from convnext_keras import clip
        >>> model = clip.create_model("convnext_mini.shapes")
        >>> red = np.full((64, 64, 3), (255, 0, 0), "uint8")
        >>> model.similarity(red, ["a red background", "a blue background"]).probs.shape
        (1, 2)
    """

    micro_batches = 1

    @property
    def image_encoder(self) -> keras.Model:
        return self.get_layer("image_encoder")

    @property
    def text_encoder(self) -> keras.Model:
        return self.get_layer("text_encoder")

    @property
    def logit_scale(self) -> float:
        return math.exp(np.asarray(ops.convert_to_numpy(self.get_layer("similarity").logit_scale)).item())

    @property
    def logit_bias(self) -> float:
        bias = self.get_layer("similarity").logit_bias
        return 0.0 if bias is None else np.asarray(ops.convert_to_numpy(bias)).item()

    @property
    def embed_dim(self) -> int:
        return self.image_encoder.output_shape[-1]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        positions = self.text_encoder.get_layer("text_position_embedding")
        return Tokenizer(self.text_encoder.get_layer("text_token_embedding").input_dim, positions.context_length)

    @property
    def transform(self) -> ImageTransform:
        known = self.pretrained_info and self.pretrained_info.transform
        shape = self.image_encoder.input_shape
        size = shape[1:3] if keras.config.image_data_format() == "channels_last" else shape[2:]
        square = size[0] == size[1]
        return (known or OPEN_CLIP_TRANSFORM)._replace(size=size[0] if square else tuple(size), convert_rgb_first=False)

    @functools.cached_property
    def _run_image_encoder(self) -> BatchRunner:
        return BatchRunner(self.image_encoder)

    @functools.cached_property
    def _run_text_encoder(self) -> BatchRunner:
        return BatchRunner(self.text_encoder)

    def encode_pixels(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        if self.image_encoder.input_shape[1] == 3:  # Keras is set to channels first.
            pixels = pixels.transpose(0, 3, 1, 2)
        return l2_normalize(self._run_image_encoder(pixels.astype("float32"), batch_size))

    def encode_tokens(self, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        return l2_normalize(self._run_text_encoder(trim_padding(tokens, self.tokenizer.end), batch_size))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for weight in self.weights:
            digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
        return digest.hexdigest()

    def fit(self, *arguments, **options):
        """Trains like `keras.Model.fit`, with the loss over the whole batch on any number of devices.

        Raises:
            ValueError: If the strategy at work cannot do that.
        """
        backend.check_distribution()
        return super().fit(*arguments, **options)

    def call(self, inputs, training=False, mask=None):
        if not training or self.micro_batches == 1:
            return super().call(inputs, training=training, mask=mask)
        images = self._encode_microbatches(self.image_encoder, inputs["images"])
        texts = self._encode_microbatches(self.text_encoder, inputs["tokens"])
        return self.get_layer("similarity")(images, texts, training=True)

    def _encode_microbatches(self, encoder: keras.Model, rows):
        """Returns the embeddings of a batch, of which nothing else is kept for the gradients."""
        require_deterministic(encoder)
        if rows.shape[0] and rows.shape[0] % self.micro_batches:
            raise ValueError(
                f"Batches must be multiples of micro_batches={self.micro_batches}. Received: {rows.shape[0]} rows. "
                "Choose a `batch_size` that is one, and leave out what remains of the data."
            )
        return backend.map_microbatches(
            keras.remat(lambda part: encoder(part, training=True)), rows, self.micro_batches
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the loss; without targets, rows with equal texts belong together."""
        if y is None and x is not None:
            tokens = backend.all_gather(x["tokens"], training)
            equal = ops.all(tokens[:, None] == tokens[None], axis=-1)
            y = ops.argmax(equal, axis=-1)
        elif y is not None:
            y = backend.all_gather(y, training)
        if sample_weight is not None:
            sample_weight = backend.all_gather(sample_weight, training)
        return super().compute_loss(x, y, y_pred, sample_weight, training)


# Whole-model .h5 files name the class without its package.
keras.saving.get_custom_objects()[CLIP.__name__] = CLIP
