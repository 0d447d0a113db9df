"""OpenCLIP's repositories: `open_clip_config.json`, and weights of both towers.

The form is that of OpenCLIP 3.3.0 (https://github.com/mlfoundations/open_clip).
"""

from typing import Any

from convnext_keras.configs import CONTEXT_LENGTH, VOCABULARY_SIZE, CLIPConfig, CLIPTextConfig, ConvNeXtConfig
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.image_processors import MAX_SIZE, read_statistics
from convnext_keras.hub.json_schema import JsonObject
from convnext_keras.hub.model_info import WEIGHTS_FILE, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.hub.timm import ARCHITECTURES

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", WEIGHTS_FILE)
POOLINGS = {"": "avg", "avg": "avg", "max": "max", "avgmax": "avgmax"}
PROJECTIONS = {"linear": False, "mlp": True}  # whether there is a hidden layer
INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
RESIZE_MODES = {name: name for name in ("shortest", "longest", "squash")}
EDGE = schema.int_range(1, MAX_SIZE)
SIZE = schema.either(EDGE, schema.list_of(EDGE, (2,)))
# Options of the towers that are about training only.
TRAINING = {"timm_drop", "timm_drop_path", "timm_model_pretrained", "patch_dropout", "init_logit_scale"}
# Options that no ConvNeXt-CLIP has otherwise than so; null stands for the same.
FIXED_TEXT = {
    **{"pool_type": "argmax", "proj_type": "linear", "proj_bias": False, "no_causal_mask": False},
    **{"embed_cls": False, "qk_norm": False, "scaled_cosine_attn": False, "scale_heads": False},
    **{"scale_attn_inner": False, "scale_attn": False, "scale_fc": False, "final_ln_after_pool": False},
    **{"output_tokens": False, "pad_id": 0, "tokenizer_kwargs": None, "text_mask": "first", "eos_id": 2},
    **{"ls_init_value": None, "hf_model_name": None, "act_kwargs": None, "norm_kwargs": None, "block_type": None},
    **{"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "hf_model_pretrained": True, "hf_model_config": None},
}
TEXT_KEYS = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name")
VISION_KEYS = ("timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias", "image_size", *TRAINING)
MODEL_KEYS = (
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"),
    *("nonscalar_logit_scale", "multimodal_cfg", "cast_dtype", "output_dict"),
)


def read_model_info(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in `open_clip_config.json`."""
    model = config.section("model_cfg")
    model.reject_unknown_keys(MODEL_KEYS, "option of a ConvNeXt-CLIP")
    if model.values.get("multimodal_cfg") is not None:
        raise model.error("multimodal_cfg", "absent: captioning models are not ConvNeXt-CLIPs")
    variant = read_clip_config(model)
    pixels = config.section("preprocess_cfg")
    return ModelInfo(
        repository,
        "open_clip",
        variant.vision,
        0,
        read_transform(pixels, variant.image_size),
        files=WEIGHTS_FILES,
        license=license,
        clip=variant,
    )


def read_clip_config(model: JsonObject) -> CLIPConfig:
    """Reads the config of both towers."""
    vision, embedding = model.section("vision_cfg"), model.read("embed_dim", schema.int_range(1, 8192))
    vision.reject_unknown_keys(VISION_KEYS, "option of an image tower by timm")
    if embedding is None:
        raise model.error("embed_dim", "a whole number 1..8192")
    projection = vision.read("timm_proj", schema.choice(PROJECTIONS), None)
    if projection is None:
        raise vision.error("timm_proj", "'linear' or 'mlp'")
    bias = vision.read("timm_proj_bias", schema.optional(schema.parse_bool), False)
    return CLIPConfig(
        read_vision_config(vision),
        read_text_config(model),
        embedding,
        image_size=vision.read("image_size", SIZE, 224),
        projection_hidden_size=2 * embedding if projection else None,
        projection_bias=bool(bias),
        logit_bias=model.read("init_logit_bias", schema.optional(schema.float_range(-1e6, 1e6))) is not None,
    )


def read_vision_config(vision: JsonObject) -> ConvNeXtConfig:
    """Reads the ConvNeXt of the image tower, by timm's name."""
    name = vision.read("timm_model_name", schema.parse_str, "")
    if name not in ARCHITECTURES:
        raise vision.error("timm_model_name", f"one of timm's ConvNeXts, such as {', '.join([*ARCHITECTURES][:3])}")
    return ARCHITECTURES[name]._replace(head_pooling=vision.read("timm_pool", schema.choice(POOLINGS), "avg"))


def read_text_config(model: JsonObject) -> CLIPTextConfig:
    """Returns the text tower."""
    text = model.section("text_cfg")
    text.reject_unknown_keys((*TEXT_KEYS, *FIXED_TEXT), "option of a text tower")
    for key, valid in FIXED_TEXT.items():
        if text.values.get(key, valid) not in (valid, None):
            raise text.error(key, f"{valid!r} or absent")
    tokenizer = text.read("hf_tokenizer_name", schema.optional(schema.parse_str)) or "openai/clip"
    if not tokenizer.lower().startswith(("openai/clip", "laion/clip")):
        raise text.error("hf_tokenizer_name", "absent or CLIP's own, such as 'openai/clip-vit-base-patch32'")
    tower = CLIPTextConfig(
        text.read("width", schema.int_range(1, 8192), 512),
        text.read("heads", schema.int_range(1, 1024), 8),
        text.read("layers", schema.int_range(1, 1000), 12),
        text.read("context_length", schema.int_range(2, 4096), CONTEXT_LENGTH),
        text.read("vocab_size", schema.int_range(514, VOCABULARY_SIZE), VOCABULARY_SIZE),
        "quick_gelu" if model.read("quick_gelu", schema.parse_bool, False) else "gelu",
        text.read("mlp_ratio", schema.float_range(0.01, 64), 4.0),
    )
    if tower.width % tower.heads:
        raise text.error("heads", f"a divisor of the width, {tower.width}")
    return tower


def read_transform(pixels: JsonObject, size: Any) -> ImageTransform:
    """Returns the evaluation transform; the size is the image tower's."""
    mode = pixels.read("mode", schema.optional(schema.parse_str)) or "RGB"
    if mode != "RGB":
        raise pixels.error("mode", "'RGB'")
    resize = pixels.read("resize_mode", schema.optional(schema.choice(RESIZE_MODES))) or "shortest"
    interpolation = pixels.read("interpolation", schema.optional(schema.choice(INTERPOLATIONS))) or "bicubic"
    is_square = not isinstance(size, tuple) or size[0] == size[1]
    return ImageTransform(
        size,
        resize_mode=resize,
        # OpenCLIP resizes to a rectangle with its own default.
        interpolation="bicubic" if resize == "shortest" and not is_square else interpolation,
        statistics=read_statistics(pixels, ("mean", "std"), 3, "clip"),
        convert_rgb_first=False,
        fill_color=pixels.read("fill_color", schema.optional(schema.int_range(0, 255))) or 0
        if resize == "longest"
        else 0,
    )
