"""transformers' repositories: `config.json` of ConvNext, ConvNextV2 and DINOv3's ConvNeXt, and a processor's file.

The form is that of transformers 5 (https://github.com/huggingface/transformers), and the older ones that it reads.
"""

from convnext_keras.configs import ConvNeXtConfig
from convnext_keras.hub import image_processors
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.class_labels import MAX_CLASSES, parse_id2label, parse_num_classes, read_problem_type
from convnext_keras.hub.json_schema import JsonObject, read_json
from convnext_keras.hub.model_info import WEIGHTS_FILES, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.hub.timm import MAX_BLOCKS, MAX_WIDTH
from convnext_keras.problem_types import PROBLEM_TYPES

MODEL_TYPES = ("convnext", "convnextv2", "dinov3_convnext")
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast"), "gelu_tanh"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    **{name: name for name in ("quick_gelu", "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "mish", "linear")},
}
# What the last word of a class in `architectures` says of the model.
CLASS_SUFFIXES = ("ForImageClassification", "Model", "Backbone")


def read_model_info(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in `config.json` and `preprocessor_config.json`."""
    model_type = config.values["model_type"]
    channels = config.read("num_channels", schema.int_range(1, 1024), 3)
    classes, labels = read_classes(config)
    problem_type = read_problem_type(config, classes)
    variant, stages = read_config(config, model_type), None
    if is_backbone(config):
        stages = read_stages(config, len(variant.depths))
    path, notes = repository.find("preprocessor_config.json"), ()
    if path is None:  # The processor's own defaults, at the size that the model was trained at.
        size = config.read("image_size", schema.optional(image_processors.EDGE), 224) or 224
        notes = (f"There is no preprocessor_config.json; the usual transform to {size} pixels is assumed.",)
        processor = JsonObject(config.path, {"size": size})
    else:
        processor = read_json(path)
    return ModelInfo(
        repository,
        "transformers",
        variant,
        classes,
        image_processors.read_transform(processor, model_type, channels),
        files=WEIGHTS_FILES,
        activation=problem_type and PROBLEM_TYPES[problem_type],
        problem_type=problem_type,
        labels=labels,
        license=license,
        notes=notes,
        stages=stages,
        stage_norms=model_type != "dinov3_convnext",
    )


def is_backbone(config: JsonObject) -> bool:
    """Returns whether the model is one of transformers' `AutoBackbone`."""
    names = config.values.get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]).endswith("Backbone")


def read_stages(config: JsonObject, count: int) -> tuple[int, ...]:
    """Returns the stages whose outputs a backbone gives, from 0; the last one if nothing is said."""
    names = {f"stage{number}": number - 1 for number in range(1, count + 1)}
    words = schema.optional(schema.list_of(schema.choice(names), range(1, count + 1)))
    return config.read("out_features", words) or (count - 1,)


def read_config(config: JsonObject, model_type: str) -> ConvNeXtConfig:
    """Returns the architecture."""
    stages = range(1, 9)
    depths = config.read("depths", schema.list_of(schema.int_range(1, MAX_BLOCKS), stages), (3, 3, 9, 3))
    dims = config.read("hidden_sizes", schema.list_of(schema.int_range(1, MAX_WIDTH), stages), (96, 192, 384, 768))
    if len(dims) != len(depths):
        raise config.error("hidden_sizes", f"{len(depths)} numbers, as many as depths has")
    if config.read("num_stages", schema.int_range(1, 8), len(depths)) != len(depths):
        raise config.error("num_stages", f"{len(depths)}, as many as depths has")
    if sum(depths) > MAX_BLOCKS:
        raise config.error("depths", f"{MAX_BLOCKS} blocks in all at most")
    edge = schema.int_range(1, 32)
    patch = config.read("patch_size", schema.either(edge, schema.list_of(edge, (2,))), 4)
    height, width = (patch, patch) if isinstance(patch, int) else patch
    if height != width:
        raise config.error("patch_size", "one number, or the same twice")
    is_dinov3, is_v2 = model_type == "dinov3_convnext", model_type == "convnextv2"
    epsilon = config.read("layer_norm_eps", schema.parse_epsilon, 1e-6 if is_dinov3 else 1e-12)
    scale = config.read("layer_scale_init_value", schema.optional(schema.float_range(-1e6, 1e6)), 1e-6) or 0
    config.read("drop_path_rate", schema.optional(schema.float_range(0, 1)))
    return ConvNeXtConfig(
        depths,
        dims,
        patch_size=height,
        kernel_sizes=(7,) * max(4, len(depths)),
        epsilon=epsilon if is_dinov3 else 1e-6,
        # Of the last norm only; in all others the model has a number of its own.
        head_epsilon=None if is_dinov3 or epsilon == 1e-6 else epsilon,
        activation=config.read("hidden_act", schema.choice(ACTIVATIONS), "gelu"),
        use_grn=is_v2,
        layer_scale=is_dinov3 or (not is_v2 and scale > 0),
    )


def read_classes(config: JsonObject) -> tuple[int, tuple[tuple[str, str], ...] | None]:
    """Returns the width of the classifier, 0 if there is none, and the names of its classes."""
    architectures = config.read("architectures", schema.optional(schema.list_of(schema.parse_str, range(1, 9)))) or (
        "",
    )
    kind = next((kind for kind in CLASS_SUFFIXES if architectures[0].endswith(kind)), None)
    if kind is None and architectures[0]:
        raise config.error("architectures", "a model that ends in ForImageClassification, Model or Backbone")
    names = config.read("id2label", schema.optional(parse_id2label))
    count = config.read("num_labels", schema.optional(parse_num_classes))
    if names is not None and count not in (None, len(names)):
        raise config.error("num_labels", f"{len(names)}, as many as id2label has")
    # Without a class's name, a classifier is there if something is said of its classes.
    if kind in ("Model", "Backbone") or (kind is None and names is None and count is None):
        return 0, None
    count = len(names) if names is not None else 2 if count is None else count
    if count > MAX_CLASSES:
        raise config.error("id2label", f"at most {MAX_CLASSES} names")
    filled = [(names or {}).get(number, f"LABEL_{number}") for number in range(count)]
    return count, tuple((name, name) for name in filled) or None
