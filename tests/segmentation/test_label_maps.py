"""Label maps: their sizes, windows against the definition, bounded memory, overlays."""

import weakref

import numpy as np
import pytest
from backends import randomize
from make_hub_references import HUB
from PIL import Image

from convnext_keras import ConvNeXt, create_model, segmentation
from convnext_keras.segmentation import SegmentationMap, sliding_window
from convnext_keras.segmentation.sliding_window import bilinear_taps, interpolate, mean_logits, window_starts

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def model():
    trunk = ConvNeXt((1, 1, 1, 1), (8, 12, 16, 20), include_top=False, input_shape=(None, None, 3))
    return randomize(segmentation.UPerNet(trunk, 4, decoder="fpn", hidden_size=8))


@pytest.mark.parametrize("image", ["path", "array", "gray", "rgba", "exif"])
def test_maps_have_the_size_of_their_image(model, image, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), "uint8")
    sources = {"path": HUB / "image.png", "array": pixels, "gray": pixels[..., 0]}
    sources["rgba"] = Image.fromarray(pixels).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    sources["exif"] = tmp_path / "turned.jpg"
    (found,) = segmentation.segment(model, sources[image])
    assert found.labels.shape == {"path": (93, 127), "exif": (70, 50)}.get(image, (50, 70))
    assert found.labels.dtype == np.uint8
    assert found.scores.shape == found.labels.shape
    assert (found.scores >= 1 / 4).all()
    assert (found.scores <= 1).all()
    assert sum(found.areas.values()) == pytest.approx(1)


def test_softmax_and_logits_give_the_same_map(model):
    trunk = ConvNeXt((1, 1, 1, 1), (8, 12, 16, 20), include_top=False, input_shape=(None, None, 3))
    other = segmentation.UPerNet(trunk, 4, decoder="fpn", hidden_size=8, activation="softmax")
    other.set_weights(model.get_weights())
    image = np.random.default_rng(1).integers(0, 256, (512, 512, 3), "uint8")  # of the size of the model
    mine, theirs = segmentation.segment(model, image)[0], segmentation.segment(other, image)[0]
    assert (mine.labels == theirs.labels).mean() > 0.999
    np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)


@pytest.mark.parametrize(("size", "window", "stride"), [((64, 64), 64, 32), ((75, 110), 40, 27), ((100, 40), 40, 40)])
def test_windows_equal_the_mean_of_all_logits(size, window, stride):
    """The definition: resized logits of each window added up in an array of the whole image."""
    random, low, asked = np.random.default_rng(2), {}, []

    def run(top, left):
        asked.append((top, left))
        return low.setdefault((top, left), random.normal(size=(10, 10, 3)).astype("float32"))

    found, seen = np.zeros((*size, 3)), np.zeros(size, int)
    for place, logits in mean_logits(run, size, window, stride):
        found[place], seen[place] = logits, seen[place] + 1
    assert (seen == 1).all()
    assert len(asked) == len({*asked})
    total, count = np.zeros((*size, 3)), np.zeros((*size, 1))
    taps = bilinear_taps(10, window)
    for top in window_starts(size[0], window, stride):
        for left in window_starts(size[1], window, stride):
            total[top : top + window, left : left + window] += interpolate(low[top, left], taps, taps)
            count[top : top + window, left : left + window] += 1
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_memory_of_windows_does_not_grow_with_the_image(monkeypatch):
    """Counts the windows whose logits are kept, and the numbers of a part, for edges of 500 and 4,000 pixels."""
    monkeypatch.setattr(sliding_window, "MAX_BLOCK", 2**20)
    kept, parts = {}, {}
    for edge in (500, 4000):
        alive, most, largest = [], 0, 0

        def run(top, left, alive=alive):
            logits = np.zeros((4, 4, 2), "float32")
            alive.append(1)
            weakref.finalize(logits, alive.pop)
            return logits

        for place, logits in mean_logits(run, (edge, edge), 250, 167):
            del place
            most, largest = max(most, len(alive)), max(largest, logits.size)
        kept[edge], parts[edge] = most, largest
    assert kept[4000] <= 4 * (sliding_window.STRIP_CELLS + 2)
    assert parts[4000] <= parts[500] * 1.01


def test_windows_of_the_image_size_equal_the_whole_image(model):
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), "uint8")
    free = segmentation.segment(model, image, window_size=64, stride=64)[0]
    transform = segmentation.Segmenter(model).transform._replace(size=64, resize_size=None)
    whole = segmentation.segment(model, image, transform=transform)[0]
    assert (free.labels == whole.labels).mean() > 0.999
    np.testing.assert_allclose(free.scores, whole.scores, atol=1e-4)


def test_small_images_are_enlarged_to_a_window(model):
    image = np.random.default_rng(3).integers(0, 256, (30, 90, 3), "uint8")
    assert segmentation.segment(model, image, window_size=64)[0].labels.shape == (30, 90)


def test_bad_arguments_are_reported(model):
    image = np.zeros((40, 40, 3), "uint8")
    with pytest.raises(ValueError, match="stride must be 1 to window_size"):
        segmentation.segment(model, image, window_size=32, stride=33)
    with pytest.raises(ValueError, match="class_names must be 4"):
        segmentation.segment(model, image, class_names=["a", "b"])
    with pytest.raises(ValueError, match="is not for segmentation"):
        segmentation.segment(create_model("convnext_mini.digits"), image)
    with pytest.raises(ValueError, match="window_size must be the size of the model"):
        segmentation.segment(create_model(HUB / "upernet_v1", input_shape=(64, 64, 3)), image, window_size=32)


def test_label_images_have_class_numbers_and_a_palette(tmp_path):
    labels = np.array([[0, 1], [2, 255]], "uint8")
    segmentation.label_image(labels).save(tmp_path / "map.png")
    read = Image.open(tmp_path / "map.png")
    assert read.mode == "P"
    np.testing.assert_array_equal(np.asarray(read), labels)
    assert np.asarray(read.convert("RGB"))[0, 1].tolist() == [128, 0, 0]
    segmentation.label_image(labels.astype("uint16") + 300).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "wide.png")), labels.astype("uint16") + 300)


def test_classes_of_one_name_share_their_area():
    assert SegmentationMap(np.array([[0, 1, 2, 2]], "uint8"), None, ("a", "b", "a")).areas == {"a": 0.75, "b": 0.25}


def test_palette_colors_differ():
    assert len({tuple(color) for color in segmentation.palette(256).tolist()}) == 256


def test_overlays_mix_image_and_colors():
    found = SegmentationMap(np.array([[0, 1]] * 40, "uint8").repeat(30, axis=1), None, ("sky", "kite"))
    image = np.full((40, 60, 3), 200, "uint8")
    drawn = segmentation.overlay(image, found, alpha=0.25)
    assert drawn.width >= 60
    assert drawn.height > 40  # the legend
    assert np.asarray(drawn)[5, 5].tolist() == [150, 150, 150]
    assert np.asarray(drawn)[5, 50].tolist() == [182, 150, 150]
    own = segmentation.overlay(image, found, alpha=1, legend=False, colors=[(9, 8, 7), (1, 2, 3)])
    assert np.asarray(own)[5, [5, 50]].tolist() == [[9, 8, 7], [1, 2, 3]]
    with pytest.raises(ValueError, match="colors must be 2"):
        segmentation.overlay(image, found, colors=[(0, 0, 0)])
    with pytest.raises(ValueError, match="pixels high and wide"):
        segmentation.overlay(np.zeros((3, 3, 3), "uint8"), found)
    with pytest.raises(ValueError, match="alpha must be 0 to 1"):
        segmentation.overlay(image, found, alpha=2)
