"""The registries of weight sets: complete, and in the publishers' own words."""

import collections
import re

import pytest

from convnext_keras.checkpoints import (
    BUNDLED_WEIGHTS_DIR,
    CLIP_REGISTRY,
    RESTRICTED_LICENSES,
    SEGMENTATION_REGISTRY,
    download,
    load_registry,
)
from convnext_keras.checkpoints.publisher_layouts import LAYOUTS
from convnext_keras.checkpoints.registry import TAGGER_LABELS
from convnext_keras.configs import CLIP_CONFIGS, CONVNEXT_CONFIGS, SEGMENTATION_CONFIGS
from convnext_keras.data.class_names import LABEL_SETS, load_class_names
from convnext_keras.data.transforms import INTERPOLATIONS, NORMALIZATION_STATS

COUNTS = {len(load_class_names(labels)): labels for labels in LABEL_SETS}


@pytest.mark.parametrize("variant", CONVNEXT_CONFIGS)
def test_no_row_of_the_registry_misses_a_field(variant):
    for row in (row for row in load_registry().values() if row.variant == variant):
        assert all([row.tag, row.layout, row.file, row.license, row.source, row.size_mb]), row
        assert row.layout in {*LAYOUTS, "Keras .h5", "convnext_keras"}, row
        assert row.labels == (COUNTS | {10_861: TAGGER_LABELS}).get(row.classes, ""), row
        assert row.statistics in NORMALIZATION_STATS, row
        assert row.interpolation in INTERPOLATIONS, row
        assert row.resize in ("pad" if row.labels == TAGGER_LABELS else "shortest", "squash"), row
        assert 32 <= row.input_size <= 512, row
        assert 0 < row.crop <= 1, row
        assert bool(row.test_input_size) == bool(row.test_crop), row
        # Accuracies are published for classifiers of ImageNet-1k, and measured by us for our own.
        assert bool(row.top1_accuracy) == (row.labels in ("imagenet-1k", "digits")), row
        assert not row.top1_accuracy or 40 < float(row.top1_accuracy) < 100, row
        if row.repository:
            assert row.url + row.sha256 + row.notop_url == "", row
            assert row.source == f"https://huggingface.co/{row.repository}", row
        else:
            assert re.fullmatch(r"[0-9a-f]{64}", row.sha256), row
            assert bool(row.notop_url) == bool(row.notop_sha256), row
            assert (
                row.url.startswith("https://") or download.file_sha256(BUNDLED_WEIGHTS_DIR / row.file) == row.sha256
            ), row


def test_the_registry_is_complete():
    """Keras' five, timm's 101, the hub's 37 of Meta, one tagger in timm's layout, and this project's."""
    rows = load_registry().values()
    assert len({row.name for row in rows}) == len(rows)
    by_layout = collections.Counter(row.layout for row in rows)
    assert by_layout["Keras .h5"] == 5
    assert by_layout["timm"] == 101 + 1
    assert [row.name for row in rows if row.labels == TAGGER_LABELS] == ["convnext_base.wd_tagger_v3"]
    assert by_layout["transformers"] + by_layout["transformers DINOv3"] == 37
    clip_rows = load_registry(CLIP_REGISTRY).values()
    assert len(clip_rows) == len({row.name for row in clip_rows}) == 13
    assert all(row.license and row.source and row.file and row.top1_accuracy and row.size_mb for row in clip_rows)
    assert {row.variant for row in clip_rows} == set(CLIP_CONFIGS)
    maps = load_registry(SEGMENTATION_REGISTRY).values()
    assert {row.variant for row in maps} == set(SEGMENTATION_CONFIGS)
    assert all(row.license and row.source and row.file and row.mean_iou and row.classes for row in maps)
    assert [row.repository for row in maps if row.repository] == [
        f"openmmlab/upernet-convnext-{size}" for size in ("tiny", "small", "base", "large", "xlarge")
    ]
    assert {row.license for row in rows} <= {"apache-2.0", "mit", *RESTRICTED_LICENSES}
    trained = {row.variant for row in rows}
    untrained = {"convnext_atto_rms", "convnextv2_small"} | {name for name in CONVNEXT_CONFIGS if "isotropic" in name}
    assert trained == set(CONVNEXT_CONFIGS) - untrained


def test_keras_files_are_those_that_keras_names():
    from keras.src.applications.convnext import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

    for variant, hashes in WEIGHTS_HASHES.items():
        row = load_registry()[f"{variant}.imagenet"]
        assert (row.sha256, row.notop_sha256) == hashes
        assert row.url == f"{BASE_WEIGHTS_PATH}{variant}.h5"
        assert row.notop_url == f"{BASE_WEIGHTS_PATH}{variant}_notop.h5"
