"""OpenCLIP's functions by their own names, for programs that were written for it."""

from typing import Any

from convnext_keras.checkpoints import CLIP_REGISTRY, find_weight_set, load_registry
from convnext_keras.clip.constructors import create_model
from convnext_keras.clip.losses import CLIPTrainTransform
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.configs import CLIP_CONFIGS
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.validation import format_choices, suggestion

HUB_PREFIX = "hf-hub:"
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "amp_bf16": "mixed_bfloat16", "amp_bfloat16": "mixed_bfloat16"}


def create_model_and_transforms(
    model_name: str, pretrained: str | None = None, *, precision: str = "fp32", force_image_size: int | None = None
) -> tuple[CLIP, CLIPTrainTransform, ImageTransform]:
    """Returns a ConvNeXt-CLIP and its two transforms, for training and for inference, as `open_clip`'s function does.

    Args:
        model_name: Such as `"convnext_base_w"`, or `"hf-hub:owner/name"`.
        pretrained: Tag of a weight set, or a path; None or `""` for random weights, except for a repository of the hub.
        precision: `"fp32"`, `"bf16"` or `"amp_bf16"`.
        force_image_size: Height and width of the images in pixels; the model's own if None.

    Returns:
        The model, the training transform and the transform for inference. Other than OpenCLIP's, the transforms give
        uint8 pixels `(H, W, 3)`, which the model normalizes, and `model.encode_image` and `model.encode_text` give unit
        vectors as NumPy arrays.

    Raises:
        ValueError: If a name is unknown; see `create_model`.

    Example:
        >>> from convnext_keras import clip
        >>> model, _, preprocess = clip.create_model_and_transforms("convnext_mini", "shapes")
        >>> batch = np.stack([preprocess(np.zeros((90, 80, 3), "uint8"))])
        >>> model.encode_image(batch).shape, model.encode_text(clip.get_tokenizer("convnext_mini")(["a star"])).shape
        ((1, 96), (1, 96))
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {format_choices(PRECISIONS)}. Received: precision={precision!r}")
    options: dict[str, Any] = {"dtype": PRECISIONS[precision], "image_size": force_image_size}
    if model_name.startswith(HUB_PREFIX):
        if pretrained:
            raise ValueError(f"A repository of the hub has its own weights. Received: pretrained={pretrained!r}")
        model = create_model(f"hf://{model_name.removeprefix(HUB_PREFIX)}", **options)
    else:
        name = f"{model_name}.{pretrained}"
        is_known = find_weight_set(name, CLIP_REGISTRY) is not None
        model = create_model(name, **options) if is_known else _with_weights(model_name, pretrained, options)
    size = model.transform.shape[0]
    return model, CLIPTrainTransform(size), model.transform


def _with_weights(model_name: str, pretrained: str | None, options: dict[str, Any]) -> CLIP:
    """Returns a variant with random weights, or those of a file."""
    if model_name not in CLIP_CONFIGS:
        hint = suggestion(model_name, CLIP_CONFIGS)
        raise ValueError(f"model_name must be one of {[*CLIP_CONFIGS]}. Received: {model_name!r}.{hint}")
    return create_model(model_name, weights=pretrained or None, **options)


def get_tokenizer(model_name: str = "", context_length: int | None = None) -> Tokenizer:
    """Returns the tokenizer of a model, as `open_clip`'s function does.

    Args:
        model_name: Such as `"convnext_base_w"`, or `"hf-hub:owner/name"`; all published ConvNeXt-CLIPs have the same.
        context_length: Number of ids of a text; the model's own if None.

    Example:
        >>> from convnext_keras import clip
        >>> clip.get_tokenizer("convnext_base_w")(["a diagram"]).shape
        (1, 77)
    """
    known = CLIP_CONFIGS.get(model_name)
    if known is None:
        return Tokenizer() if context_length is None else Tokenizer(context_length=context_length)
    return Tokenizer(known.text.vocab_size, context_length or known.text.context_length)


def list_pretrained(as_str: bool = False) -> list:
    """Returns the weight sets of ConvNeXt-CLIP as pairs of model and tag, as `open_clip`'s function does.

    Args:
        as_str: Whether each is a string, `"model:tag"`.

    Example:
        >>> from convnext_keras import clip
        >>> ("convnext_base_w", "laion2b_s13b_b82k_augreg") in clip.list_pretrained()
        True
    """
    rows = [(row.variant, row.tag) for row in load_registry(CLIP_REGISTRY).values()]
    return [":".join(row) for row in rows] if as_str else rows
