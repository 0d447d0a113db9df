"""Images with masks in all forms, and one clear error for each fault."""

import numpy as np
import pytest
from PIL import Image

from convnext_keras import training
from convnext_keras.data.images import ImageError

pytestmark = pytest.mark.any_backend
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 20, 30, 3), "uint8")
MASKS = RANDOM.integers(0, 3, (6, 20, 30)).astype("uint8")
COLORS = [(0, 0, 0), (255, 0, 0), (10, 200, 30)]


def write(folder, images="images", masks="masks", kind="L"):
    for name in (images, masks):
        (folder / name / "inner").mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(IMAGES, MASKS, strict=True)):
        place = "inner/" if number % 2 else ""
        Image.fromarray(image).save(folder / images / f"{place}{number}.jpg", quality=95)
        drawn = Image.fromarray(np.array(COLORS, "uint8")[mask] if kind == "RGB" else mask)
        if kind == "P":
            drawn.putpalette([level for color in COLORS for level in color])
        drawn.save(folder / masks / f"{place}{number}.png")
    return folder


def masks_of(dataset):
    order = np.argsort([dataset.image_name(index).rpartition("/")[2] for index in range(len(dataset))])
    return np.stack([dataset.mask(index) for index in order])


@pytest.mark.parametrize("kind", ["L", "P", "RGB"])
def test_folders_of_any_kind_of_mask(kind, tmp_path):
    folder = write(tmp_path, kind=kind)
    colors = COLORS if kind == "RGB" else None
    for data in (folder, (folder / "images", folder / "masks")):
        dataset = training.load_segmentation_dataset(data, ["sky", "sea", "kite"], colors=colors)
        np.testing.assert_array_equal(masks_of(dataset), MASKS)
        assert sum(dataset.pixel_counts) == MASKS.size


def test_other_names_of_folders(tmp_path):
    dataset = training.load_segmentation_dataset(write(tmp_path, "imgs", "annotations"))
    assert dataset.class_names == ("0", "1", "2")


def test_tables_arrays_and_loaders(tmp_path):
    folder = write(tmp_path)
    rows = [f"images/{'inner/' * (n % 2)}{n}.jpg;masks/{'inner/' * (n % 2)}{n}.png" for n in range(6)]
    (tmp_path / "data.csv").write_text("\n".join(["Image;Mask", *rows]))
    pairs = list(zip(IMAGES, MASKS, strict=True))
    forms = {
        "table": tmp_path / "data.csv",
        "arrays": (IMAGES, MASKS[..., None]),
        "lists": ([*IMAGES], [*MASKS.astype("int64")]),
        "pairs": pairs,
        "rows": [{"image": Image.fromarray(image), "annotation": Image.fromarray(mask)} for image, mask in pairs],
        "floats": (IMAGES, MASKS.astype("float32")),
    }
    assert folder
    for name, data in forms.items():
        np.testing.assert_array_equal(masks_of(training.load_segmentation_dataset(data)), MASKS, err_msg=name)
    dataset = training.load_segmentation_dataset([{"a": i, "b": m} for i, m in pairs], keys=("a", "b"))
    np.testing.assert_array_equal(masks_of(dataset), MASKS)


def test_colors_in_any_order_and_black_that_is_no_class():
    colors = [(255, 0, 0), (10, 200, 30)]
    mask = np.array([[[10, 200, 30], [255, 0, 0], [0, 0, 0]]], "uint8")
    assert training.read_mask(mask, colors).tolist() == [[1, 0, 255]]
    gray = np.array([[0, 255]], "uint8")
    assert training.read_mask(gray, [(0, 0, 0), (255, 255, 255)]).tolist() == [[0, 1]]


def test_reduced_labels():
    assert training.read_mask(np.array([[0, 1, 150, 255]], "uint8"), reduce_labels=True).tolist() == [
        [255, 0, 149, 255]
    ]


def test_sixteen_bits(tmp_path):
    mask = np.array([[0, 300], [65535, 7]], "uint16")
    Image.fromarray(mask).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(training.read_mask(tmp_path / "wide.png"), mask)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda m: m[:, :19], {}, r"is 19 x 30 pixels \(height x width\), its image .* 20 x 30"),
        (lambda m: m.transpose(0, 2, 1), {}, "is 30 x 20 pixels"),
        (lambda m: np.where(m == 2, 7, m), {"class_names": ["a", "b", "c"]}, "has the class 7, but there are 3"),
        (lambda m: np.full_like(m, 255), {}, "has only pixels that are ignored"),
        (lambda m: m * 0 + 255 * (m > 0), {}, "only the class 0 and 255.*colors="),
        (lambda m: m * 1.5, {}, "whole numbers"),
        (lambda m: m.astype(int) - 1, {}, "classes 0 to 65535. Received: -1"),
        (lambda m: m[:3], {}, "as many masks as images"),
        (lambda m: np.array(COLORS, "uint8")[m], {"colors": COLORS[:2]}, r"color \(10, 200, 30\) in \d+ pixels"),
        (lambda m: np.array(COLORS, "uint8")[m], {}, r"must be \(H, W\) numbers"),
        (lambda m: np.array(COLORS, "uint8")[m], {"colors": [*COLORS[:2], COLORS[1]]}, "colors must differ"),
    ],
)
def test_faults_are_reported(change, options, message):
    with pytest.raises(ValueError, match=message):
        training.load_segmentation_dataset((IMAGES, [*change(MASKS)]), **options)


def test_classes_that_never_occur_are_named():
    with pytest.warns(UserWarning, match="No pixel is of the classes 'c', 'd': nothing is learned"):
        training.load_segmentation_dataset((IMAGES, np.minimum(MASKS, 1)), [*"abcd"])


def test_faults_of_files_name_them(tmp_path):
    folder = write(tmp_path)
    (folder / "masks" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 images have no mask, such as .*0\.jpg: there is no .*0\.\*"):
        training.load_segmentation_dataset(folder)
    Image.new("RGB", (30, 20)).save(folder / "masks" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: a mask of mode RGB needs the color of each class"):
        training.load_segmentation_dataset(folder)
    (folder / "masks" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png"):
        training.load_segmentation_dataset(folder)
    with pytest.raises(ValueError, match="must be a folder with the folders images and masks"):
        training.load_segmentation_dataset(folder / "masks")
