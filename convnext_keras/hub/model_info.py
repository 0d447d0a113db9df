"""Description of a model in a repository: architecture, classes, transform and weight files."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from convnext_keras.checkpoints import WeightsError
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.checkpoints.registry import RESTRICTED_LICENSES, warn_restricted_license
from convnext_keras.checkpoints.shards import open_checkpoint
from convnext_keras.configs import (
    CLIPConfig,
    ConvNeXtConfig,
    SegmentationConfig,
    count_clip_params,
    count_params,
    count_segmentation_params,
)
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.hub.repository import Repository
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS

# Names of the weight file in order of preference; timm and OpenCLIP do not read shards.
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS_FILES = (  # the last four as `save_pretrained(variant=...)` of transformers names them
    WEIGHTS_FILE,
    WEIGHTS_INDEX,
    *(f"model.{variant}.safetensors" for variant in ("fp16", "bf16")),
    *(f"model.safetensors.index.{variant}.json" for variant in ("fp16", "bf16")),
)
UNCOUNTED = ".num_batches_tracked"  # tensors of PyTorch's batch norms that no inference needs
METADATA_FIELDS = {"num_params", "input_size"}  # attributes of a variant that no layer has
LICENSE_PATTERN = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Model as its repository describes it, before any weights are downloaded.

    Attributes:
        repository: The repository.
        format: `"timm"`, `"transformers"`, `"open_clip"` or `"keras"`.
        variant: The architecture; of a ConvNeXt-CLIP, that of its image tower.
        classes: Width of the classifier, 0 if there is none.
        transform: The evaluation transform.
        files: Names that the weight file may have, in order of preference.
        activation: Activation of the classifier: `"softmax"`, `"sigmoid"` for classes that do not exclude each other,
            or None.
        problem_type: Meaning of the classifier's outputs, a key of `PROBLEM_TYPES`; None without a classifier.
        thresholds: See `PretrainedInfo`.
        categories: See `PretrainedInfo`.
        labels: The label set of the classes, or each class as `(identifier, name)`; None if unknown.
        license: License of the weights, None if the repository does not say it.
        output_stride: Pixels of the input for one of the last feature map, None for the architecture's own.
        clip: Both towers of a ConvNeXt-CLIP; None for others.
        segmentation: Backbone and decoder of a segmentation model; None for others.
        stages: Stages whose outputs a backbone of transformers gives, from 0; None for others.
        stage_norms: Whether these outputs are normalized.
        reduce_labels: Whether class 0 of the masks that a segmentation model was trained on is ignored, and class 1
            there is its first.
        notes: What was assumed or left out, in sentences.
        include_preprocessing: Whether the model normalizes pixels itself.
    """

    repository: Repository
    format: str
    variant: ConvNeXtConfig
    classes: int
    transform: ImageTransform
    files: tuple[str, ...] = (WEIGHTS_FILE,)
    activation: str | None = None
    problem_type: str | None = None
    thresholds: tuple[float, ...] | None = None
    categories: tuple[str, ...] | None = None
    labels: str | tuple[tuple[str, str], ...] | None = None
    license: str | None = None
    output_stride: int | None = None
    clip: CLIPConfig | None = None
    segmentation: SegmentationConfig | None = None
    stages: tuple[int, ...] | None = None
    stage_norms: bool = True
    reduce_labels: bool = False
    notes: tuple[str, ...] = ()
    include_preprocessing: bool = True

    @property
    def name(self) -> str:
        """Returns the repository's name as the user gave it."""
        return self.repository.name

    @property
    def activations(self) -> tuple[str | None, ...]:
        """Returns the allowed activations: all, because configs do not record them reliably."""
        return (None, *CLASSIFIER_ACTIVATIONS)

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `ConvNeXt` that build the model."""
        head: dict[str, Any] = {"include_top": self.classes > 0, "classes": self.classes or 1000}
        if not self.classes:
            head["pooling"] = None if self.variant.head_pooling == "none" else self.variant.head_pooling
        chosen = {"classifier_activation": self.activation, "output_stride": self.output_stride, "name": "convnext"}
        chosen["include_preprocessing"] = self.include_preprocessing
        return {**self.variant._asdict(), **head, **chosen}

    @property
    def num_params(self) -> int:
        """Returns the number of parameters in the weight file."""
        if self.clip:
            return count_clip_params(self.clip)
        if self.segmentation:
            channels, auxiliary = self.transform.channels, self.segmentation.auxiliary_head
            return count_segmentation_params(self.segmentation, self.classes, channels, auxiliary)
        count = count_params(self.variant, self.classes, self.transform.channels)
        if self.stages is None:
            return count
        norms = 2 * sum(self.variant.dims[stage] for stage in self.stages) if self.stage_norms else 0
        return count - 2 * self.variant.dims[-1] + norms

    def check(self, variant: ConvNeXtConfig, include_top: bool) -> None:
        """Raises ValueError if the model that is to be filled has another architecture."""
        if self.clip:
            raise WeightsError(f"{self.name} is a ConvNeXt-CLIP: use convnext_keras.clip.create_model.")
        if self.segmentation or self.stages is not None:
            kind = "segmentation model" if self.segmentation else "backbone with outputs of its stages"
            raise WeightsError(f"{self.name} is a {kind}: use create_model({self.name!r}).")
        if include_top and not self.classes:
            raise ValueError(f"{self.name} has no classifier. Use include_top=False. Received: include_top=True")
        mine, theirs = self.variant._asdict(), variant._asdict()
        unlike = [name for name in mine.keys() - METADATA_FIELDS if mine[name] != theirs[name]]
        if not include_top:
            unlike = [name for name in unlike if name != "head_pooling"]
        if unlike:
            published = ", ".join(f"{name}={mine[name]}" for name in sorted(unlike))
            raise WeightsError(
                f"{self.name} is of another architecture: {published}. "
                f"Received: {', '.join(f'{name}={theirs[name]}' for name in sorted(unlike))}. "
                f"create_model({self.name!r}) builds what it describes."
            )

    def check_clip(self, variant: CLIPConfig) -> None:
        """Raises WeightsError if the ConvNeXt-CLIP that is to be filled has other sizes."""

        def sizes(variant: CLIPConfig) -> CLIPConfig:
            backbone = variant.vision._replace(num_params=None, input_size=0)
            return variant._replace(vision=backbone, num_params=None, image_size=0)

        if self.clip is None or sizes(self.clip) != sizes(variant):
            raise WeightsError(
                f"{self.name} is of another architecture than the model. "
                f"convnext_keras{'.clip' if self.clip else ''}.create_model({self.name!r}) builds what it describes."
            )

    def fetch(self, include_top: bool = True) -> VerifiedFile:
        """Returns the local weight file, after a check of its number of parameters.

        Raises:
            WeightsError: If it is not available, or has another number of parameters.
        """
        if self.license in RESTRICTED_LICENSES:
            warn_restricted_license(self.license)
        file = self.repository.require(self.files)
        with open_checkpoint(file.path) as opened:
            headers = opened.headers.items()
            count = sum(math.prod(header.shape) for name, header in headers if not name.endswith(UNCOUNTED))
        if count != self.num_params:
            raise WeightsError(
                f"{file.path}: holds {count} numbers, but the description says {self.num_params}: "
                f"depths={self.variant.depths}, dims={self.variant.dims}, {self.classes} classes."
            )
        return file


def read_card_license(repository: Repository) -> str | None:
    """Reads the license in the header of a repository's `README.md`, like the Hub; None if there is none."""
    path = repository.find("README.md")
    if path is None:
        return None
    head = re.match(r"---\s*\n(.*?)\n---", Path(path).read_text(encoding="utf-8", errors="replace")[:20_000], re.DOTALL)
    stated = head and LICENSE_PATTERN.search(head[1])
    return stated[1] if stated else None
