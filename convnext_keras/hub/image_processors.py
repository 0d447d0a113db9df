"""transformers' `preprocessor_config.json` as a transform.

Each processor there has two implementations, whose pixels differ by a level or two; matched is the one of Pillow.
"""

from typing import Any, NamedTuple

from convnext_keras.data.transforms import NORMALIZATION_STATS, ImageTransform, NormalizationStats, get_statistics
from convnext_keras.hub import json_schema as schema
from convnext_keras.hub.json_schema import JsonObject

Size = int | tuple[int, int]
MAX_SIZE, MAX_EDGE = 4_096, 8_192  # pixels of an image for the model, and before it is cropped


class Processor(NamedTuple):
    """Defaults of an image processor of transformers.

    Attributes:
        size: A number is the shorter edge, two are height and width.
        resample: Pillow's number of the interpolation.
        statistics: Their name.
        crop_size: Crop size of the center crop, None if there is none.
        crop_below: ConvNext's own rule: smaller sizes are cropped from `size / crop_pct`, others squashed.
        levels: See `ImageTransform`.
    """

    size: Size
    resample: int
    statistics: str
    crop_size: Size | None = None
    crop_below: int = 0
    levels: bool = True


CONVNEXT = Processor(384, 3, "half", crop_below=384)
PROCESSORS = {
    "ConvNextImageProcessor": CONVNEXT,
    "ConvNextFeatureExtractor": CONVNEXT,
    "ViTImageProcessor": Processor((224, 224), 2, "half"),
    "ViTFeatureExtractor": Processor((224, 224), 2, "half"),
    "BitImageProcessor": Processor(224, 3, "clip", crop_size=(224, 224)),
    "CLIPImageProcessor": Processor(224, 3, "clip", crop_size=(224, 224)),
    "SegformerImageProcessor": Processor((512, 512), 2, "imagenet"),
    "SegformerFeatureExtractor": Processor((512, 512), 2, "imagenet"),
    "DINOv3ViTImageProcessor": Processor((224, 224), 2, "imagenet", levels=False),
}
# By the model's type, where no processor is named.
DEFAULTS = {
    "dinov3_convnext": "DINOv3ViTImageProcessor",
    "upernet": "SegformerImageProcessor",
}
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
FLAGS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad")
EDGE = schema.int_range(1, MAX_SIZE)


def read_transform(config: JsonObject, model_type: str, channels: int) -> ImageTransform:
    """Returns the evaluation transform of a `preprocessor_config.json`."""
    processor = read_processor(config, model_type)
    on = dict.fromkeys(FLAGS, True) | {"do_center_crop": processor.crop_size is not None, "do_pad": False}
    on |= {key: bool(config.read(key, schema.optional(schema.parse_bool), on[key])) for key in FLAGS}
    if on["do_pad"]:
        raise config.error("do_pad", "false")
    resample = config.read("resample", schema.optional(schema.int_choice(range(len(RESAMPLE)))))
    shared = ImageTransform(
        224,
        interpolation=RESAMPLE[processor.resample if resample is None else resample],
        statistics=scaled_statistics(config, processor, on, channels),
        crop_rounding="down",
        channels=channels,
        quantize=processor.levels,
    )
    crop_size = read_size(config, "crop_size", processor.crop_size or processor.size, square=True)
    crop_size = crop_size if on["do_center_crop"] else None
    if not on["do_resize"]:
        if crop_size is None:
            raise config.error("do_resize", "true, or a center crop be made, so that all images get one size")
        return shared._replace(size=crop_size, resize_mode="none")
    size = read_size(config, "size", processor.size, square=isinstance(processor.size, tuple))
    if processor.crop_below:
        return convnext_transform(config, shared, size, crop_size, processor.crop_below)
    if isinstance(size, tuple):
        return shared._replace(
            size=collapse_square(crop_size or size), resize_mode="squash", resize_size=collapse_square(size)
        )
    if crop_size is None:
        raise config.error("do_center_crop", "true where size is a shortest_edge, so that all images get one size")
    return shared._replace(size=collapse_square(crop_size), resize_size=size)


def read_processor(config: JsonObject, model_type: str) -> Processor:
    """Returns the processor that the file names, in either of its two forms."""
    key = "image_processor_type" if "image_processor_type" in config.values else "feature_extractor_type"
    named = config.read(key, schema.parse_str, DEFAULTS.get(model_type, "ConvNextImageProcessor"))
    plain = named.removesuffix("Fast").removesuffix("Pil")
    if plain not in PROCESSORS:
        raise config.error(key, f"one of {', '.join(PROCESSORS)}, with Fast or Pil behind it or not")
    return PROCESSORS[plain]


def convnext_transform(
    config: JsonObject, shared: ImageTransform, size: Size, crop_size: Size | None, crop_below: int
) -> ImageTransform:
    """Returns the transform of ConvNext's own processor: small sizes are cropped, large ones squashed."""
    if isinstance(size, tuple):
        raise config.error("size", "an object with shortest_edge")
    if crop_size is not None and collapse_square(crop_size) != size:
        raise config.error("crop_size", f"{size}, what the processor crops to by itself")
    if size >= crop_below:
        return shared._replace(size=size, resize_mode="squash", resize_size=size)
    crop = config.read("crop_pct", schema.optional(schema.float_range(0.05, 1))) or 224 / 256
    edge = int(size / crop)
    if edge > MAX_EDGE:
        raise config.error("crop_pct", f"such that the resized edge is {MAX_EDGE} pixels at most")
    return shared._replace(size=size, resize_size=edge)


def read_size(config: JsonObject, key: str, default: Size, square: bool) -> Size:
    """Returns the shorter edge, or height and width; a bare number is `square` or a shorter edge."""
    value = config.values.get(key)
    if value is None:
        return default
    if not isinstance(value, dict):
        edge = config.read(key, schema.either(EDGE, schema.parse_object))
        return (edge, edge) if square else edge
    section = config.section(key)
    if set(value) == {"height", "width"}:
        return section.read("height", EDGE), section.read("width", EDGE)
    if set(value) == {"shortest_edge"}:
        edge = section.read("shortest_edge", EDGE)
        return (edge, edge) if key == "crop_size" else edge
    raise config.error(key, "an object with height and width, or with shortest_edge")


def scaled_statistics(
    config: JsonObject, processor: Processor, on: dict[str, bool], channels: int
) -> str | NormalizationStats:
    """Returns statistics for pixels in 0..1 that combine rescaling and normalizing."""
    keys = ("image_mean", "image_std")
    statistics = read_statistics(config, keys, channels, processor.statistics)
    factor = config.read("rescale_factor", schema.optional(schema.float_range(1e-9, 1e9))) or 1 / 255
    scale = 255 * (factor if on["do_rescale"] else 1)
    if on["do_normalize"] and abs(scale - 1) < 1e-6:
        return statistics
    mean, std = get_statistics(statistics) if on["do_normalize"] else ((0.0,) * channels, (1.0,) * channels)
    return named_statistics(
        NormalizationStats(tuple(value / scale for value in mean), tuple(value / scale for value in std))
    )


def collapse_square(size: Size) -> Size:
    """Returns one number for a square size."""
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def read_statistics(
    section: JsonObject, keys: tuple[str, str], channels: int, default: str
) -> str | NormalizationStats:
    """Reads mean and standard deviation of each channel; returns their name if they have one.

    Args:
        section: JSON object that contains the keys.
        keys: Keys of the means and of the deviations; a number, or a list of them.
        channels: Channels of the images. A single value applies to all; for gray images, three are averaged, as in
            timm.
        default: The name of those that are meant where none are given.
    """
    readings = (schema.float_range(-1e6, 1e6), schema.float_range(1e-6, 1e6))
    rows = [
        _read_channels(section, key, reading, channels, row)
        for key, reading, row in zip(keys, readings, NORMALIZATION_STATS[default], strict=True)
    ]
    return named_statistics(NormalizationStats(*rows))


def named_statistics(statistics: NormalizationStats) -> str | NormalizationStats:
    """Returns the name of statistics that have one, or themselves."""
    return next((name for name, row in NORMALIZATION_STATS.items() if row == statistics), statistics)


def _read_channels(
    section: JsonObject, key: str, reading: schema.Parser, channels: int, default: Any
) -> tuple[float, ...]:
    lengths = range(1, max(3, channels) + 1)
    one_or_many = schema.either(schema.list_of(reading, lengths), lambda value: (reading(value),))
    values = section.read(key, schema.optional(one_or_many)) or default
    if channels == 1:
        return (sum(values) / len(values),)
    if len(values) not in (1, channels):
        raise section.error(key, f"one number, or {channels}, one for each channel")
    return values * channels if len(values) == 1 else values
