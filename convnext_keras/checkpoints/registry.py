"""Registries of weight sets: from a name to a row, and from a row to a verified local file."""

import csv
import fnmatch
import functools
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from convnext_keras.checkpoints import download
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.checkpoints.formats import WeightsError
from convnext_keras.configs import ConvNeXtConfig
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS
from convnext_keras.validation import suggestion

# A wheel contains the top-level directory `weights/` inside the package; a checkout contains it beside the package.
BUNDLED_WEIGHTS_DIR = next(
    folder
    for folder in (Path(__file__).parents[1] / "bundled_weights", Path(__file__).parents[2] / "weights")
    if (folder / "registry.csv").is_file()
)
CLASSIFIER_REGISTRY, CLIP_REGISTRY, SEGMENTATION_REGISTRY = "registry", "clip", "segmentation"  # the tables
# By the form that a set is published in: what its processor does otherwise than timm's.
TRANSFORMS = {"transformers": {"crop_rounding": "down"}, "transformers DINOv3": {"quantize": False}}
# Value of `labels` of the sets whose labels are in the `selected_tags.csv` of their repository, and the preparation of
# their images beside the columns of the table; see `hub.tagger`.
TAGGER_LABELS = "selected_tags"
TAGGER_TRANSFORM: dict[str, Any] = {"fill_color": 255, "background": (255, 255, 255), "bgr": True}
# Licenses that do not allow any use, in a few words.
RESTRICTED_LICENSES = {
    "cc-by-nc-4.0": "not for commercial use (https://creativecommons.org/licenses/by-nc/4.0/)",
    "dinov3-license": "Meta's own terms, which must be accepted on the hub first",
    "fair-noncommercial-research-license": "for non-commercial research only",
}


@runtime_checkable
class WeightsSource(Protocol):
    """Published weights and their metadata: a `WeightSet`, or a `hub.ModelInfo`."""

    @property
    def name(self) -> str:
        """Returns the name by which models remember the weights."""
        ...

    @property
    def classes(self) -> int:
        """Returns the number of classes, 0 without a classifier."""
        ...

    @property
    def labels(self) -> str | tuple[tuple[str, str], ...] | None:
        """Returns the label set of the classes, or each class as `(identifier, name)`; None or empty if unknown."""
        ...

    @property
    def license(self) -> str | None:
        """Returns the license of the weights, None if unknown."""
        ...

    @property
    def transform(self) -> ImageTransform:
        """Returns the evaluation transform: an image in, the model's pixels out."""
        ...

    @property
    def activations(self) -> tuple[str | None, ...]:
        """Returns those that the classifier can be used with."""
        ...

    def check(self, variant: ConvNeXtConfig, include_top: bool) -> None:
        """Raises ValueError if the weights are for another architecture, or have no classifier where one is wanted."""
        ...

    def fetch(self, include_top: bool) -> VerifiedFile:
        """Returns the local file, downloaded if needed; the file without classifier if it exists and is wanted."""
        ...


class WeightSet(NamedTuple):
    """Row of a registry: one published set of weights.

    The registries are `weights/registry.csv`, of classifiers and backbones, `weights/clip.csv`, of ConvNeXt-CLIP, and
    `weights/segmentation.csv`.

    Attributes:
        variant: The architecture it belongs to.
        tag: Its name among the variant's sets.
        layout: How the publisher names the tensors; see `layouts`.
        repository: Repository on the Hugging Face hub, as `owner/name`; empty if the file is not there.
        revision: Branch, tag or commit of the repository; empty for its main branch.
        file: Its name, in the repository, at the end of `url`, or in the folder `weights/`; names that it may have are
            separated by `|`, in order of preference.
        url: Address of the file with the classifier, if it is not on the hub.
        sha256: Sha256 of that file, 64 hexadecimal digits; the hub states that of its own files.
        notop_url: Address of the file without the classifier, if the publisher has one.
        notop_sha256: Notop sha256 of that file.
        size_mb: About how large the file is.
        classes: Width of the classifier, 0 if there is none.
        labels: Name of the label set of the classes, or `TAGGER_LABELS`.
        input_size: Height and width in pixels that the set is evaluated at.
        crop: See `ImageTransform.crop_pct`.
        test_input_size: A larger size that was evaluated too, with `test_crop` and `test_top1`; empty if none was.
        test_crop: Crop at that size.
        resize: See `ImageTransform.resize_mode`.
        interpolation: See `ImageTransform.interpolation`.
        statistics: The name of the statistics that the model embeds.
        license: License of the weights, as their publisher states it.
        source: Page that describes them.
        top1_accuracy: Accuracy in percent with this transform as published, of ImageNet-1k (of CLIP: zero-shot) or the
            set's own task; empty if none is.
        test_top1_accuracy: Accuracy at the test size.
        mean_iou: Mean intersection over union in percent on the data that a segmentation model was trained for, as
            published, by windows of its size; empty for others.
        test_mean_iou: The same with several scales and mirrored images.
    """

    variant: str
    tag: str
    layout: str
    repository: str
    revision: str
    file: str
    url: str
    sha256: str
    notop_url: str
    notop_sha256: str
    size_mb: int
    classes: int
    labels: str
    input_size: int
    crop: float
    test_input_size: str
    test_crop: str
    resize: str
    interpolation: str
    statistics: str
    license: str
    source: str
    top1_accuracy: str
    test_top1_accuracy: str
    mean_iou: str = ""
    test_mean_iou: str = ""

    @property
    def name(self) -> str:
        """Returns the name by which models remember the weights."""
        return f"{self.variant}.{self.tag}"

    @property
    def transform(self) -> ImageTransform:
        """Returns the evaluation transform: an image in, the model's pixels out."""
        others: dict[str, Any] = TAGGER_TRANSFORM if self.labels == TAGGER_LABELS else TRANSFORMS.get(self.layout, {})
        return ImageTransform(self.input_size, self.crop, self.resize, self.interpolation, self.statistics, **others)

    @property
    def activations(self) -> tuple[str | None, ...]:
        """Returns those that the classifier can be used with."""
        return (None, *CLASSIFIER_ACTIVATIONS)

    def check(self, variant: ConvNeXtConfig, include_top: bool) -> None:
        """Raises ValueError if there is no classifier where one is wanted; the architecture is the row's own."""
        if include_top and not self.classes:
            raise ValueError(f"{self.name} has no classifier. Use include_top=False. Received: include_top=True")

    def fetch(self, include_top: bool) -> VerifiedFile:
        """Returns the local file, downloaded if need be and checked against its sha256.

        Raises:
            WeightsError: If it cannot be had, or its sha256 differs.
        """
        if self.license in RESTRICTED_LICENSES:
            warn_restricted_license(self.license)
        headless = not include_top and bool(self.notop_url)
        url, sha256 = (self.notop_url, self.notop_sha256) if headless else (self.url, self.sha256)
        try:
            if self.repository:
                return download.fetch_from_hub(self.repository, self.file.split("|"), self.revision)
            if url:
                return download.fetch(url, sha256, self.size_mb)
        except OSError as error:
            raise WeightsError(f"{self.name}: {error}") from error
        path = BUNDLED_WEIGHTS_DIR / self.file
        if not path.is_file() or download.file_sha256(path) != sha256:
            raise WeightsError(
                f"{path}: is missing or differs from the registry's sha256. Install convnext-keras again."
            )
        return VerifiedFile(path, sha256)


@functools.cache
def load_registry(table: str = CLASSIFIER_REGISTRY) -> dict[str, WeightSet]:
    """Loads the weight sets of `weights/{table}.csv` by their names, in the order of the table."""
    types = WeightSet.__annotations__
    with (BUNDLED_WEIGHTS_DIR / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        rows = [
            WeightSet(**{key: types[key](row[key]) for key in types if key in row}) for row in csv.DictReader(stream)
        ]
    return {row.name: row for row in rows}


def default_weight_set(variant: str, table: str = CLASSIFIER_REGISTRY) -> WeightSet | None:
    """Returns the first weight set of a variant, the default of its constructor; None if there is none."""
    return next((row for row in load_registry(table).values() if row.variant == variant), None)


def list_weights(pattern: str = "*") -> list[str]:
    """Returns names of the weight sets, each `variant.tag`.

    Args:
        pattern: Shell pattern that the name matches, such as `"convnext_base.*"`.

    Example:
        >>> list_weights("convnext_mini.*")
        ['convnext_mini.digits']
    """
    return fnmatch.filter(load_registry(), pattern)


def find_weight_set(name: str, table: str = CLASSIFIER_REGISTRY, variant: str | None = None) -> WeightSet | None:
    """Finds a weight set by its full name, its Hub repository, or a unique tag.

    Args:
        name: Name in either case, with `-` or `_`; `@revision` may follow the name of a set on the hub.
        table: The registry.
        variant: Variant whose sets are meant; None for all.
    """
    plain, _, revision = name.partition("@")
    rows = [row for row in load_registry(table).values() if variant in (None, row.variant)]
    matches = [
        row
        for row in rows
        if _normalize_tag(plain) in (_normalize_tag(row.name), _normalize_tag(row.repository) or None)
    ]
    matches = matches or [row for row in rows if _normalize_tag(plain) == _normalize_tag(row.tag)]
    if len(matches) != 1 or (revision and not matches[0].repository):
        return None
    return matches[0]._replace(revision=revision or matches[0].revision)


def resolve_weights(
    weights: str | os.PathLike | WeightsSource | None, variant: str | None, table: str = CLASSIFIER_REGISTRY
) -> WeightsSource | Path | None:
    """Resolves the `weights` argument of a constructor to a weight set, an existing file, or None.

    A weight set is named by its tag, its full name or its Hub repository, in any case and with `-` or `_`.

    Raises:
        ValueError: If it is none of these; the message lists what is valid.
        WeightsError: If it looks like a path and there is no such file.
    """
    if weights is None or isinstance(weights, WeightsSource):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(f"weights must be None, the name of a weight set, or a path. Received: {weights!r}")
    if variant and (row := find_weight_set(str(weights), table, variant)):
        return row
    if Path(weights).is_file():
        return Path(weights)
    looks_like_a_path = isinstance(weights, os.PathLike) or {"/", os.sep} & set(weights)
    if looks_like_a_path or str(weights).endswith((".h5", ".safetensors", ".json", ".pth")):
        raise WeightsError(f"{weights}: no such file.")
    tags = sorted(row.tag for row in load_registry(table).values() if row.variant == variant)
    raise ValueError(
        f"weights must be None, a path to an existing file, or one of {tags} for {variant or 'a custom model'}. "
        f"Received: weights={weights!r}.{suggestion(weights, [*tags, *load_registry(table)])}"
    )


def _normalize_tag(name: str) -> str:
    return name.lower().replace("-", "_")


@functools.cache  # Once for each license is enough.
def warn_restricted_license(license: str) -> None:
    """Tells that a license restricts the use of weights."""
    warnings.warn(f"These weights are under {license}: {RESTRICTED_LICENSES[license]}.", stacklevel=6)


def fetch_weights(source: WeightsSource | Path, include_top: bool = True) -> VerifiedFile:
    """Returns the local file of weights that are published, or a file of the user's, with its sha256.

    Args:
        source: What `resolve_weights` gives.
        include_top: False to take the publisher's file without the classifier where there is one.

    Raises:
        WeightsError: If it cannot be had, or its sha256 is not the stated one.
    """
    return VerifiedFile(source, download.file_sha256(source)) if isinstance(source, Path) else source.fetch(include_top)
