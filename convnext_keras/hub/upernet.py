"""transformers' `UperNetForSemanticSegmentation` on a ConvNeXt: the `config.json`, and the processor's file."""

from convnext_keras.configs import SegmentationConfig
from convnext_keras.hub import image_processors, transformers
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.class_labels import MAX_CLASSES, parse_id2label, parse_num_classes
from convnext_keras.hub.json_schema import JsonObject, read_json
from convnext_keras.hub.model_info import WEIGHTS_FILES, ModelInfo
from convnext_keras.hub.repository import Repository
from convnext_keras.hub.timm import MAX_WIDTH

MODEL_TYPE = "upernet"
STAGE_NAMES = ["stage1", "stage2", "stage3", "stage4"]
WIDTH = schema.int_range(1, MAX_WIDTH)
# Of older files: another way to name the backbone, which must not be in use.
FOREIGN_BACKBONE_KEYS = ("backbone", "use_pretrained_backbone", "use_timm_backbone")


def read_model_info(repository: Repository, config: JsonObject, license: str | None) -> ModelInfo:
    """Returns the description in `config.json` and `preprocessor_config.json`."""
    for key in FOREIGN_BACKBONE_KEYS:
        if config.values.get(key):
            raise config.error(key, "null or false, with the backbone described in backbone_config")
    segmentation = read_segmentation_config(config)
    classes, labels = read_classes(config)
    channels = config.section("backbone_config").read("num_channels", schema.int_range(1, 1024), 3)
    path, notes = repository.find("preprocessor_config.json"), ()
    if path is None:
        notes = ("There is no preprocessor_config.json; SegFormer's transform to 512 x 512 pixels is assumed.",)
    processor = JsonObject(config.path, {}) if path is None else read_json(path)
    transform = image_processors.read_transform(processor, MODEL_TYPE, channels)
    return ModelInfo(
        repository,
        "transformers",
        segmentation.backbone,
        classes,
        transform,
        files=WEIGHTS_FILES,
        labels=labels,
        license=license,
        notes=notes,
        segmentation=segmentation._replace(image_size=transform.size),
        reduce_labels=read_reduce_labels(processor),
    )


def read_segmentation_config(config: JsonObject) -> SegmentationConfig:
    """Returns the architecture of backbone and decoder."""
    backbone = config.section("backbone_config")
    model_type = backbone.read("model_type", schema.choice({name: name for name in transformers.MODEL_TYPES}))
    if model_type is None:
        raise backbone.error("model_type", f"one of {', '.join(transformers.MODEL_TYPES)}")
    variant = transformers.read_config(backbone, model_type)
    if len(variant.depths) != len(STAGE_NAMES):
        raise backbone.error("depths", f"{len(STAGE_NAMES)} numbers")
    # What is not said are all stages: transformers fills both from each other.
    for key, valid in (("out_features", STAGE_NAMES), ("out_indices", [1, 2, 3, 4])):
        if backbone.values.get(key) not in (None, valid):
            raise backbone.error(key, str(valid))
    scales = schema.list_of(schema.int_range(1, 64), range(1, 17))
    auxiliary = config.read("auxiliary_in_channels", schema.optional(WIDTH))
    if auxiliary not in (None, variant.dims[2]):
        raise config.error("auxiliary_in_channels", f"null or {variant.dims[2]}, the channels of the third stage")
    return SegmentationConfig(
        variant,
        hidden_size=config.read("hidden_size", WIDTH, 512),
        pool_scales=config.read("pool_scales", scales, (1, 2, 3, 6)),
        output_norms=model_type != "dinov3_convnext",
        auxiliary_head=config.read("use_auxiliary_head", schema.parse_bool, True),
        auxiliary_channels=config.read("auxiliary_channels", WIDTH, 256),
        auxiliary_num_convs=config.read("auxiliary_num_convs", schema.int_range(0, 16), 1),
        auxiliary_concat_input=config.read("auxiliary_concat_input", schema.parse_bool, False),
    )


def read_classes(config: JsonObject) -> tuple[int, tuple[tuple[str, str], ...] | None]:
    """Returns the number of classes, and their names."""
    kinds = schema.optional(schema.list_of(schema.parse_str, range(1, 9)))
    kind = (config.read("architectures", kinds) or ("UperNetForSemanticSegmentation",))[0]
    if kind != "UperNetForSemanticSegmentation":
        raise config.error("architectures", "UperNetForSemanticSegmentation")
    names = config.read("id2label", schema.optional(parse_id2label))
    count = config.read("num_labels", schema.optional(parse_num_classes))
    count = len(names) if names is not None else 2 if count is None else count
    if not 1 <= count <= MAX_CLASSES:
        raise config.error("id2label", f"1 to {MAX_CLASSES} names")
    return count, tuple(((names or {}).get(number, f"LABEL_{number}"),) * 2 for number in range(count))


def read_reduce_labels(processor: JsonObject) -> bool:
    """Returns whether class 0 of the masks is what is ignored, and the others are counted from 1."""
    values = [processor.read(key, schema.optional(schema.parse_bool)) for key in ("do_reduce_labels", "reduce_labels")]
    return any(values)
