"""Exported segmentation models give the maps of the Keras model by their own runtimes."""

import numpy as np
import pytest
from backends import BACKEND
from make_hub_references import HUB

from convnext_keras import create_model, export, segmentation
from convnext_keras.export import FORMATS

pytestmark = pytest.mark.integration
OWN = [name for name, row in FORMATS.items() if row.backend == BACKEND]
FREE = [name for name in OWN if FORMATS[name].supports_dynamic_size]
INT8 = [name for name in OWN if "int8" in FORMATS[name].precisions]
IMAGE = HUB / "image.png"


def model(size=64):
    return create_model(HUB / "upernet_v1", input_shape=(size, size, 3))


@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_maps_equal_those_of_keras(format, layout, tmp_path):
    path = tmp_path / f"model{FORMATS[format].suffix}"
    written = export.export(model(), path, format, layout=layout)
    assert written.max_relative_error < 1e-5
    read = export.ExportedModel(path)
    assert read.outputs == ["logits"]
    assert read.is_segmentation
    mine, theirs = (segmentation.segment(one, IMAGE)[0] for one in (read, model()))
    np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert mine.class_names == theirs.class_names


@pytest.mark.parametrize("format", FREE)
def test_free_sizes_serve_windows(format, tmp_path):
    path = tmp_path / f"model{FORMATS[format].suffix}"
    export.export(model(None), path, format)
    mine, theirs = (
        segmentation.segment(one, IMAGE, window_size=48)[0] for one in (export.ExportedModel(path), model(None))
    )
    assert (mine.labels == theirs.labels).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("format", INT8)
def test_int8_keeps_the_map(format, tmp_path):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (70, 80, 3), "uint8") for _ in range(16)]
    path = tmp_path / f"model{FORMATS[format].suffix}"
    export.export(model(), path, format, precision="int8", calibration_data=images)
    mine, theirs = (segmentation.segment(one, IMAGE)[0] for one in (export.ExportedModel(path), model()))
    assert (mine.labels == theirs.labels).mean() > 0.98


@pytest.mark.skipif(not OWN, reason="this backend writes no format")
def test_exported_classifiers_are_not_segmented(tmp_path):
    path = tmp_path / f"digits{FORMATS[OWN[0]].suffix}"
    export.export(create_model("convnext_mini.digits"), path, OWN[0])
    with pytest.raises(ValueError, match="is not for segmentation"):
        segmentation.segment(export.ExportedModel(path), IMAGE)
