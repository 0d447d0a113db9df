"""Training configs and presets, with their sources."""

import dataclasses
from typing import Any

from convnext_keras.configs import AUXILIARY_LOSS_WEIGHT
from convnext_keras.training.losses import LOSS_NAMES
from convnext_keras.validation import format_choices, suggestion

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
HEAD_INITS = ("linear_probe", "random")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Configuration of a training run. `dataclasses.replace(config, epochs=10)` changes one field.

    Attributes:
        epochs: Number of epochs; 0 trains only the head, with `head_init="linear_probe"`. Defaults to 30.
        min_steps: Minimum number of steps; epochs are added for small datasets. Defaults to 0.
        batch_size: Number of images per forward pass. Defaults to 32.
        accumulation_steps: Number of forward passes per step. Defaults to 1.
        learning_rate: Peak learning rate, that of the head.
        warmup_ratio: Fraction of the steps for the linear warm-up; then the rate follows a cosine to 0.
        weight_decay: Decoupled weight decay of kernels (https://arxiv.org/abs/1711.05101v3).
        layer_decay: See `parameter_groups`.
        layer_decay_mode: See `parameter_groups`.
        clip_norm: Maximum global norm of the gradients; None for no limit.
        ema_decay: See `LayerwiseOptimizer`.
        drop_path_rate: See `ConvNeXt`; None for 0. A model object keeps its own rate.
        loss: Name of the loss, see `losses.LOSSES`; None for cross-entropy, binary cross-entropy or mean squared error
            by the problem type. `"sigmoid"` is for a ConvNeXt-CLIP, see `fine_tune_clip`.
        optimizer: A name in `OPTIMIZERS`. Defaults to `"adamw"`.
        class_weights: `"balanced"` weighs each class in the loss by the inverse of its number of images; None for no
            weights.
        sampling: `"balanced"` draws images of all classes with the same probability; None takes each image once per
            epoch.
        label_smoothing: Fraction of the target that is spread over all classes.
        mixup: See `augmentation.mixup_cutmix`.
        cutmix: See `augmentation.mixup_cutmix`.
        crop_scale: See `augmentation.Augmentation`.
        hflip_prob: See `augmentation.Augmentation`.
        affine: See `augmentation.Augmentation`.
        rand_augment: See `augmentation.Augmentation`.
        random_erasing_prob: See `augmentation.Augmentation`.
        scale_range: See `augmentation.JointAugmentation`; segmentation only, as for the next three.
        color_jitter: See `augmentation.JointAugmentation`.
        auxiliary_weight: Weight of the loss of the auxiliary classifier; 0 for a model without it.
        dice_weight: See `SegmentationLoss`.
        head_init: Initial classifier: `"linear_probe"`, a probe of the backbone's features
            (https://arxiv.org/abs/2202.10054v1), or `"random"`. A classifier of the same classes is kept if `epochs` >
            0.
        pretrained: Whether training starts from the named weights; False uses only their architecture.
        frozen_stages: Number of stages to freeze, 0 to 4, counted from the stem.
        lora_rank: Rank of low-rank updates, which are trained instead of the kernels and merged at the end; 0 for none.
        precision: Precision of the computations, a name in `PRECISIONS`.
        save_best: Whether the result has the weights of the epoch with the lowest validation loss instead of the last.
        patience: Number of epochs without a lower validation loss after which training stops; None for no limit.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> TrainingConfig(epochs=5, learning_rate=1e-3).layer_decay
        1.0
    """

    epochs: int = 30
    min_steps: int = 0
    batch_size: int = 32
    accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    layer_decay_mode: str = "block"
    clip_norm: float | None = None
    ema_decay: float | None = None
    drop_path_rate: float | None = None
    loss: str | None = None
    optimizer: str = "adamw"
    class_weights: str | None = None
    sampling: str | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    hflip_prob: float = 0.0
    affine: float = 0.0
    rand_augment: float = 0.0
    random_erasing_prob: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    color_jitter: float = 0.0
    auxiliary_weight: float = 0.0
    dice_weight: float = 0.0
    head_init: str = "random"
    pretrained: bool = True
    frozen_stages: int = 0
    lora_rank: int = 0
    precision: str = "float32"
    save_best: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            whole = name in INT_FIELDS
            if value is None and name in OPTIONAL_FIELDS:
                continue
            kinds = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                none = "None, or " if name in OPTIONAL_FIELDS else ""
                number = "a whole number " if whole else ""
                raise ValueError(f"{name} must be {none}{number}{low:g} to {high:g}. Received: {name}={value!r}")
        for name in ("pretrained", "save_best"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False. Received: {name}={getattr(self, name)!r}")
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be {format_choices(words)}. Received: {name}={getattr(self, name)!r}")
        scale: Any = self.crop_scale
        if not isinstance(scale, tuple) or len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"crop_scale must be two rising parts above 0 and up to 1. Received: crop_scale={scale!r}")
        scale = self.scale_range
        if not isinstance(scale, tuple) or len(scale) != 2 or not 0.1 <= scale[0] <= scale[1] <= 10:
            raise ValueError(f"scale_range must be two rising factors 0.1 to 10. Received: scale_range={scale!r}")


INT_FIELDS = ("epochs", "min_steps", "batch_size", "accumulation_steps", "frozen_stages", "lora_rank", "patience")
OPTIONAL_FIELDS = ("clip_norm", "ema_decay", "drop_path_rate", "patience")
FRACTION_FIELDS = ("warmup_ratio", "label_smoothing", "hflip_prob", "affine", "random_erasing_prob", "color_jitter")
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0, 100_000),
    "min_steps": (0, 10_000_000),
    "batch_size": (1, 65_536),
    "accumulation_steps": (1, 65_536),
    "learning_rate": (1e-12, 100),
    "weight_decay": (0, 10),
    "layer_decay": (1e-6, 1),
    "clip_norm": (1e-6, 1e6),
    "ema_decay": (0, 0.999999),
    "drop_path_rate": (0, 0.99),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "rand_augment": (0, 10),
    "auxiliary_weight": (0, 10),
    "dice_weight": (0, 10),
    "frozen_stages": (0, 4),
    "lora_rank": (0, 4096),
    "patience": (1, 100_000),
    **dict.fromkeys(FRACTION_FIELDS, (0, 1)),
}
OPTIMIZERS = ("adamw", "adam", "lion", "sgd", "rmsprop")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "loss": (None, *LOSS_NAMES),
    "optimizer": OPTIMIZERS,
    "class_weights": (None, "balanced"),
    "sampling": (None, "balanced"),
    "layer_decay_mode": ("block", "stage"),
    "head_init": HEAD_INITS,
    "precision": PRECISIONS,
}

SMALL_DATA_LIMIT = 10_000  # number of images below which the preset for small data is the default

TRAINING_PRESETS = {
    # Logistic regression on the backbone's features; nothing else is trained, so the other fields have no meaning.
    "linear_probe": TrainingConfig(epochs=0, head_init="linear_probe"),
    # Meta's fine-tuning of ImageNet-22k weights ("A ConvNet for the 2020s", table 6, and the TRAINING.md of
    # facebookresearch/ConvNeXt at 048efce): AdamW 5e-5 at batch 512 with layer decay, drop path, smoothing, RandAugment
    # and erasing, no mixing. That rate is for the 27-block models' 30 epochs of a million images; fewer steps need a
    # higher one. docs/training_results.md measures what each part gives on thousands of images.
    "fine_tune": TrainingConfig(
        epochs=30,
        learning_rate=5e-4,
        layer_decay=0.8,
        clip_norm=1.0,
        ema_decay=0.999,
        drop_path_rate=0.1,
        label_smoothing=0.1,
        crop_scale=(0.35, 1.0),
        hflip_prob=0.5,
        rand_augment=9.0,
        random_erasing_prob=0.25,
    ),
    # Up to ten thousand images: the one part that docs/training_results.md found to help on most of its data. With
    # as few steps, layer decay and a head that starts from the probe did not, nor did stronger changes of the images.
    "fine_tune_small_data": TrainingConfig(min_steps=120, affine=1.0),
    # Of images with masks. Meta's UPerNets were trained so: AdamW 1e-4 at batch 16 with stage-wise layer decay 0.9,
    # drop path 0.4, scale 0.5 to 2, flip and color changes, 160,000 steps (semantic_segmentation/ of
    # facebookresearch/ConvNeXt). Fewer steps on smaller data need a higher rate and less drop path.
    "segmentation": TrainingConfig(
        epochs=50,
        min_steps=400,
        batch_size=8,
        learning_rate=1e-3,
        layer_decay=0.9,
        layer_decay_mode="stage",
        drop_path_rate=0.1,
        scale_range=(0.5, 2.0),
        hflip_prob=0.5,
        color_jitter=0.4,
        auxiliary_weight=AUXILIARY_LOSS_WEIGHT,
        save_best=True,
    ),
    # "A ConvNet for the 2020s", table 5: ImageNet-1k in 300 epochs, 4e-3 at batch 4096, scaled here by the batch.
    "from_scratch": TrainingConfig(
        pretrained=False,
        epochs=300,
        batch_size=128,
        learning_rate=1.25e-4,
        warmup_ratio=20 / 300,
        ema_decay=0.9999,
        drop_path_rate=0.1,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        crop_scale=(0.08, 1.0),
        hflip_prob=0.5,
        rand_augment=9.0,
        random_erasing_prob=0.25,
    ),
}


def get_training_config(config: str | TrainingConfig | None, count: int) -> TrainingConfig:
    """Returns the preset of a name, a given config, or the default preset for a number of images.

    Raises:
        ValueError: If no preset has the name.

    Example:
        >>> get_training_config(None, count=200) == TRAINING_PRESETS["fine_tune_small_data"]
        True
    """
    if isinstance(config, TrainingConfig):
        return config
    name = config or ("fine_tune_small_data" if count < SMALL_DATA_LIMIT else "fine_tune")
    if name not in TRAINING_PRESETS:
        hint = suggestion(name, TRAINING_PRESETS)
        raise ValueError(
            f"config must be {format_choices(TRAINING_PRESETS)}, or a TrainingConfig. Received: config={name!r}.{hint}"
        )
    return TRAINING_PRESETS[name]
