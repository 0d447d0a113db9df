import hashlib
import warnings

import keras
import numpy as np
import pytest
from backends import to_numpy
from make_clip_references import TRANSFORM_SIZE
from make_references import RECIPES, REFERENCES, arrays_of, odd_images
from PIL import Image

from convnext_keras import preprocess_input
from convnext_keras.checkpoints import load_registry
from convnext_keras.data.images import open_image
from convnext_keras.data.transforms import NORMALIZATION_STATS, ImageTransform, center_crop, normalize


def test_preprocess_input_returns_its_input():
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3))
    assert preprocess_input(pixels) is pixels
    assert preprocess_input(pixels, data_format="channels_last") is pixels


@pytest.mark.parametrize("pixels", [np.full((1, 2, 2, 3), 0.5), np.full((1, 2, 2, 3), -1.0)])
def test_preprocess_input_warns_about_scaled_pixels(pixels):
    with pytest.warns(UserWarning, match=r"0\.\.255"):
        assert preprocess_input(pixels) is pixels


@pytest.mark.parametrize("pixels", [np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3), "uint8"), np.zeros((0, 2, 2, 3))])
def test_preprocess_input_accepts_black_and_empty_images(pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocess_input(pixels)


@pytest.mark.parametrize("statistics", NORMALIZATION_STATS)
def test_normalize(statistics):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), "uint8")
    mean, std = NORMALIZATION_STATS[statistics]
    expected = (pixels / 255.0 - mean) / std
    np.testing.assert_allclose(normalize(pixels, statistics), expected, atol=1e-5)
    np.testing.assert_allclose(
        to_numpy(normalize(keras.ops.convert_to_tensor(pixels), statistics)), expected, atol=1e-5
    )


def test_normalize_rejects_unknown_statistics():
    with pytest.raises(ValueError, match="clip.*half.*imagenet.*'openai'"):
        normalize(np.zeros((1, 1, 3)), "openai")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
@pytest.mark.parametrize("size", [(40, 30), (300, 60), (10, 12)])
def test_transform_accepts_any_image(mode, size, tmp_path):
    image = Image.new(mode, size)
    assert ImageTransform(32, crop_pct=0.875)(image).shape == (32, 32, 3)
    if mode not in ("CMYK", "LA"):
        image.save(tmp_path / "image.png")
        np.testing.assert_array_equal(
            ImageTransform(32)(tmp_path / "image.png"), ImageTransform(32)(str(tmp_path / "image.png"))
        )


def test_transform_accepts_arrays():
    random = np.random.default_rng(0)
    gray = random.integers(0, 256, (40, 50), "uint8")
    expected = ImageTransform(32)(Image.fromarray(gray))
    np.testing.assert_array_equal(ImageTransform(32)(gray), expected)
    np.testing.assert_array_equal(ImageTransform(32)(gray[..., None]), expected)
    np.testing.assert_array_equal(ImageTransform(32)(np.stack([gray] * 3, axis=-1).astype("float64")), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4, 3), (4, 4, 2)])
def test_transform_rejects_arrays_of_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(H, W\) or one of \(H, W, 1\), \(H, W, 3\)"):
        open_image(np.zeros(shape))


def test_crop_is_centered():
    image = Image.fromarray(np.arange(100, dtype="uint8").reshape(10, 10))
    np.testing.assert_array_equal(np.asarray(center_crop(image, 4)), np.arange(100).reshape(10, 10)[3:7, 3:7])


def test_squash_keeps_everything():
    wide = np.zeros((10, 40, 3), "uint8")
    wide[:, :4] = 255
    assert ImageTransform(20, resize_mode="squash")(wide)[:, 0].min() == 255
    assert ImageTransform(20, resize_mode="shortest")(wide).max() == 0


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_unreadable_files(content, tmp_path):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        open_image(tmp_path / "broken.png")


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_missing_files_and_folders(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("name", RECIPES)
def test_transforms_equal_timm(name, tmp_path):
    """Twenty odd images, to one step of 255."""
    expected = arrays_of(REFERENCES / "timm_transforms.npz")[name].astype(int)
    transform = ImageTransform(**RECIPES[name])
    for path, wanted in zip(odd_images(tmp_path), expected, strict=True):
        with Image.open(path) as image:
            for source in (path, image, np.asarray(open_image(image))):
                assert np.abs(transform(source).astype(int) - wanted).max() <= 1, path


def test_transforms_equal_transformers(tmp_path):
    """Twenty odd images, every pixel equal; with the rounding of timm some are not."""
    expected = arrays_of(REFERENCES / "transformers_transforms.npz")["crop"]
    transform = ImageTransform(**RECIPES["crop"], crop_rounding="down")
    paths = odd_images(tmp_path)
    for path, wanted in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(transform(path), wanted, err_msg=path.name)
    others = [ImageTransform(**RECIPES["crop"])(path) for path in paths]
    assert sum(not np.array_equal(pixels, wanted) for pixels, wanted in zip(others, expected, strict=True)) >= 2


def test_crop_rounding_equals_transformers():
    assert load_registry()["convnext_tiny.hf_1k_224"].transform.crop_rounding == "down"
    assert load_registry()["convnext_tiny.fb_in1k"].transform.crop_rounding == "half_even"


def test_clip_transform_equals_open_clip(tmp_path):
    """Twenty odd images, to one step of 255: other modes become RGB after resizing and cropping."""
    expected = arrays_of(REFERENCES / "clip_transforms.npz")["pixels"].astype(int)
    transform = ImageTransform(TRANSFORM_SIZE, statistics="clip", convert_rgb_first=False)
    for path, wanted in zip(odd_images(tmp_path), expected, strict=True):
        with Image.open(path) as image:
            for source in (path, image):
                assert np.abs(transform(source).astype(int) - wanted).max() <= 1, path


# Height, width, size: pixels [0, 0], [size / 2, size / 2] and [-1, -1], and the first 16 digits of the sha256, of what
# OpenCLIP's transform makes of pixel(y, x, c) = (7 x + 13 y + 50 c) mod 256 (Pillow 13.0.0, torchvision 0.28.0).
SYNTHETIC = {
    (300, 451, 256): ((15, 66, 116), (202, 222, 46), (109, 159, 209), "ff513658c1661a3a"),
    (256, 385, 256): ((192, 242, 36), (192, 242, 36), (172, 222, 16), "fc64c0d1147e69d4"),
    (500, 333, 320): ((60, 110, 160), (64, 114, 164), (47, 97, 147), "b18a57d8761b3033"),
    (100, 100, 256): ((0, 48, 98), (226, 16, 70), (190, 240, 34), "9ae3e731709bc73e"),
    (256, 256, 256): ((0, 50, 100), (0, 50, 100), (236, 30, 80), "109e3f62b2b95bc2"),
}


@pytest.mark.parametrize("case", SYNTHETIC)
def test_clip_transform_on_synthetic_images(case):
    height, width, size = case
    y, x, channel = np.ogrid[:height, :width, :3]
    found = ImageTransform(size, statistics="clip", convert_rgb_first=False)(
        ((7 * x + 13 * y + 50 * channel) % 256).astype("uint8")
    )
    *pixels, digest = SYNTHETIC[case]
    for place, expected in zip((0, size // 2, -1), pixels, strict=True):
        assert np.abs(found[place, place].astype(int) - expected).max() <= 1
    assert hashlib.sha256(found.tobytes()).hexdigest().startswith(digest)


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("pixels", [100_000_000, 200_000_000])
def test_huge_images_are_rejected_before_decoding(pixels, tmp_path):
    Image.new("1", (10_000, pixels // 10_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read as an image.*(pixels|exceeds limit)"):
        open_image(tmp_path / "bomb.png")


def test_truncated_images_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read as an image"):
        ImageTransform(32, convert_rgb_first=False)(tmp_path / "cut.jpg")
