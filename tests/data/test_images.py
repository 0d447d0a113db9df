"""One reader for every source, format, mode and type of number; one error for whatever cannot be read."""

import io
import random
import tarfile

import keras
import numpy as np
import pytest
from backends import BACKEND
from PIL import Image

from convnext_keras import ImageError, clip, distributed, retrieval, training
from convnext_keras.data.images import MAX_PIXELS, exif_bytes, exif_orientation, open_image
from convnext_keras.data.item_names import canonical_path, file_name, printable
from convnext_keras.data.loader import as_image_list, iter_batches, list_images
from convnext_keras.data.transforms import ImageTransform

pytestmark = pytest.mark.any_backend
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
RAMP = np.tile(np.arange(256, dtype="uint8"), (16, 1))
MODEL = "convnext_mini.shapes"


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colors(size=(40, 30)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8"))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_source_gives_the_same_pixels(kind, tmp_path):
    content = file_of(colors(), FORMATS[kind])
    path = tmp_path / f"image.{kind}"
    path.write_bytes(content)
    expected = np.asarray(open_image(path))
    with path.open("rb") as file:
        np.testing.assert_array_equal(open_image(file), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(open_image(image), expected)
    sources = [str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)]
    sources += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
    for source in [*sources, expected, keras.ops.convert_to_tensor(expected)]:
        np.testing.assert_array_equal(open_image(source), expected)


WIDE = {
    "uint16": RAMP.astype("uint16") * 257,
    "int32 of 16 bits": RAMP.astype("int32") * 257,
    "int64 of 8 bits": RAMP.astype("int64"),
    "float32 in 0..1": RAMP.astype("float32") / 255,
    "float64 in 0..255": RAMP.astype("float64"),
    "float16 in 0..1": (RAMP / 255).astype("float16"),
}


@pytest.mark.parametrize("kind", WIDE)
def test_other_dtypes_are_scaled(kind):
    np.testing.assert_array_equal(np.asarray(open_image(WIDE[kind], "L")), RAMP)
    color = np.repeat(WIDE[kind][..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(open_image(color))[..., 1], RAMP)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
@pytest.mark.parametrize("convert_rgb_first", [True, False])
def test_files_of_more_than_8_bits_are_scaled(mode, kind, convert_rgb_first):
    wide = RAMP / 255 if mode == "F" else RAMP.astype("uint16") * 257.0
    image = Image.fromarray(wide.astype({"I;16": "uint16", "I": "int32", "F": "float32"}[mode]))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(open_image(file_of(image, kind)))[..., 0], RAMP)
    transform = ImageTransform((16, 256), resize_mode="squash", convert_rgb_first=convert_rgb_first)
    np.testing.assert_array_equal(transform(file_of(image, kind))[..., 2], RAMP)


def test_booleans_are_black_and_white():
    np.testing.assert_array_equal(np.asarray(open_image(np.eye(3, dtype=bool), "L")), 255 * np.eye(3, dtype="uint8"))


def test_16_bit_scaling_equals_the_peers():
    image = file_of(Image.fromarray(RAMP.astype("uint16") * 257))
    expected = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    np.testing.assert_array_equal(open_image(image, scale_levels=False), expected)
    transform = ImageTransform((16, 256), resize_mode="squash", scale_levels=False)
    np.testing.assert_array_equal(transform(image), expected)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.full((4, 4, 3), np.inf, "float32"), "not finite"),
        (np.linspace(-2, 2.6, 48).reshape(4, 4, 3), "look normalized"),
        (np.full((4, 4), 4095.0), "use 0..1 or 0..255"),
        (np.full((4, 4), -3), "integers are -3 to -3"),
        (np.full((4, 4), 70_000), "0..65535"),
        (np.zeros((4, 4, 3), "complex64"), "complex64"),
        (np.full((4, 4), "a"), "<U1"),
        (np.zeros((3, 4, 4)), "move the channels to the last axis"),
        (np.zeros((4, 4, 2)), r"\(H, W\)"),
        (np.zeros((0, 4, 3)), r"\(0, 4, 3\)"),
        (np.zeros(()), "shape"),
    ],
)
def test_invalid_arrays_raise(array, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(array)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "of no image format"),
        (b"not an image", "of no image format"),
        ("https://host/photo.png", "Download it first"),
        ("data:image/png;base64,AAAA", "data URI"),
        ("no/such/file.png", "no such file"),
        (".", "folder"),
        (None, "a path, bytes, a file object"),
        (137, "a path, bytes, a file object"),
        ("x" * 480, "File name too long|no such file"),
        ("nul\0byte.png", "null|no such file"),
        ({"label": 3}, "a path, bytes"),
    ],
)
def test_invalid_sources_raise(source, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        open_image(source)
    assert " at 0x" not in str(caught.value)
    assert caught.value.reason


def test_errors_name_the_source(tmp_path):
    with pytest.raises(ImageError, match=r"^photos\.tar/1\.png cannot be read as an image: its content is of no"):
        open_image(b"garbage", name="photos.tar/1.png")
    (tmp_path / "broken.png").write_bytes(file_of(colors())[:200])
    with pytest.raises(ImageError, match="broken.png cannot be read as an image"):
        open_image(tmp_path / "broken.png")


def bomb(width=20_000, height=10_000):
    return file_of(Image.new("1", (width, height)))


def test_limits_are_checked_before_pixels_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(bomb())
    for source in (tmp_path / "bomb.png", bomb(), bomb(10_000, 9_000)):
        with pytest.raises(ImageError, match=f"exceeds limit|at most {MAX_PIXELS} are read"):
            open_image(source)
    with pytest.raises(ImageError, match="at most 100 are read"):
        open_image(file_of(colors()), max_pixels=100)
    for source in (file_of(colors()), io.BytesIO(file_of(colors()))):
        with pytest.raises(ImageError, match="bytes; at most 50 are read"):
            open_image(source, max_bytes=50)
    with pytest.raises(ImageError, match="of no image format that is accepted"):
        open_image(file_of(colors(), "BMP"), formats=("PNG", "JPEG"))


ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = file_of(colors(), kind, exif=exif, **options)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    np.testing.assert_array_equal(open_image(content, exif_transpose=True), expected)
    stored = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(open_image(content), stored)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + bytes(500)])
def test_damaged_exif_is_ignored(exif):
    assert exif_orientation(exif) in (0, 1)
    assert exif_bytes(exif) >= 0
    exif_file = file_of(colors(), exif=b"Exif\0\0" + exif) if exif else file_of(colors())
    assert open_image(exif_file, exif_transpose=True).size == (40, 30)


def test_alpha_is_dropped_or_composited():
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    for image in (clear, palette):
        assert open_image(image).getpixel((0, 0)) == (10, 20, 30)
        assert open_image(image, background=(255, 255, 255)).getpixel((0, 0)) == (255, 255, 255)
        assert ImageTransform(2, background=(0, 0, 255))(image)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(20_000, 1), (1, 60_000), (30_000, 2), (50_000, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"crop_rounding": "down"}, {"crop_pct": 0.9}, {"quantize": False}, {"convert_rgb_first": False}]
)
def test_thin_images_need_memory_of_the_result_only(size, options, monkeypatch):
    """No intermediate image is larger than a few times the result or the source."""
    made = []
    resize = Image.Image.resize

    def watched(image, target, *arguments, **keywords):
        made.append(target[0] * target[1])
        return resize(image, target, *arguments, **keywords)

    monkeypatch.setattr(Image.Image, "resize", watched)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8")
    assert ImageTransform(64, **options)(noise).shape == (64, 64, 3)
    assert max(made) <= 64 * 64 * 64


@pytest.mark.parametrize("size", [(900, 2), (2, 901), (1201, 3)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_crop_of_a_thin_image_equals_full_resize(size, interpolation, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8")
    transform = ImageTransform(16, interpolation=interpolation)
    whole = transform(noise).astype(int)
    monkeypatch.setattr("convnext_keras.data.transforms.MAX_UPSCALED_AREA", 0)
    assert np.abs(transform(noise).astype(int) - whole).max() <= 1


@pytest.fixture(scope="module")
def shapes():
    return clip.create_model(MODEL)


def test_one_array_is_one_image(shapes):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    expected = shapes.encode_image(pixels)
    assert expected.shape == (1, 96)
    same = [
        pixels.tolist(),
        keras.ops.convert_to_tensor(pixels),
        [pixels],
        pixels[None],
        file_of(Image.fromarray(pixels)),
    ]
    same += [keras.ops.convert_to_tensor(pixels[None]), io.BytesIO(file_of(Image.fromarray(pixels)))]
    for images in same:
        np.testing.assert_allclose(shapes.encode_image(images), expected, atol=1e-6)
    with pytest.raises(ImageError, match="move the channels to the last axis"):
        shapes.encode_image(keras.ops.convert_to_tensor(pixels.transpose(2, 0, 1)))
    for wrong in (None, 5, [[[1, 2], [3]]]):
        with pytest.raises(ImageError):
            shapes.encode_image(wrong)


@pytest.mark.skipif(BACKEND != "torch", reason="tensors of PyTorch")
def test_tensors_with_gradients_and_of_bfloat16():
    import torch

    pixels = torch.rand(8, 8, 3, requires_grad=True)
    assert open_image(pixels).size == (8, 8)
    assert open_image(pixels.to(torch.bfloat16)).size == (8, 8)


def test_lists_of_images_stay_lists():
    gray = [np.zeros((4, 4), "uint8")] * 3
    assert len(list(as_image_list(gray))) == 3
    assert len(list(as_image_list(np.zeros((5, 4, 4, 3))))) == 5
    assert len(list(as_image_list(iter(gray)))) == 3
    assert len(list(as_image_list(["a.png", "b.png"]))) == 2


BROKEN = {
    "bomb": bomb(),
    "empty": b"",
    "text": b"not an image",
    "cut short": file_of(colors())[:300],
    "header of a BMP": file_of(colors(), "BMP")[:18] + b"\xff" * 30,
    "header of a TIFF": b"II*\0" + b"\xff" * 40,
    "header of a GIF": b"GIF89a" + b"\xff" * 40,
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_one_error_at_every_entry_point(case, shapes, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(file_of(colors()))
    (folder / "bad.png").write_bytes(BROKEN[case])
    with pytest.raises(ImageError, match="bad.png cannot be read as an image"):
        shapes.encode_image(folder / "bad.png")
    with pytest.warns(UserWarning, match=r"Skipped: .*bad\.png"):
        assert len(shapes.encode_image(sorted(folder.iterdir()), on_error="skip")) == 1
    index = retrieval.InMemoryIndex(shapes)
    with pytest.raises(ImageError, match="bad.png"):
        index.add(folder)
    with pytest.raises(ImageError, match="bad.png"):
        index.search(folder / "bad.png") if index.add(folder / "good.png") else None
    classes = tmp_path / "classes"
    for name in ("a", "b"):
        (classes / name).mkdir(parents=True)
        for path in folder.iterdir():
            (classes / name / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="bad.png cannot be read as an image"):
        training.load_dataset(classes)
    with pytest.warns(UserWarning, match="Left out 2 of 4"):
        assert training.load_dataset(classes, on_error="skip").class_counts == {"a": 1, "b": 1}
    with pytest.raises(ImageError, match="bad.png"):
        next(iter_batches(folder.iterdir(), ImageTransform(32), 2))


@pytest.mark.integration
@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("source", ["folder", "tar", "list"])
def test_a_broken_image_is_one_row_of_a_job(case, source, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    files = {"bad.png": BROKEN[case], "good.png": file_of(colors())}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in files:
            archive.add(folder / name, name)
    (tmp_path / "photos.csv").write_text("path\nphotos/bad.png\nphotos/good.png\n")
    inputs = {"folder": folder, "tar": tmp_path / "photos.tar", "list": tmp_path / "photos.csv"}[source]
    assert distributed.embed(MODEL, inputs, tmp_path / "vectors")[:2] == (2, 1)
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(tmp_path / "vectors").to_pylist()
    error = next(row["error"] for row in rows if row["error"])
    assert "bad.png cannot be read as an image" in error
    assert " at 0x" not in error


def test_ten_thousand_mutated_files_give_only_the_librarys_error():
    """Bytes of valid files are changed, cut, doubled and swapped, with a fixed seed."""
    draw = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [file_of(colors((12, 9)), kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
             for kind in FORMATS.values()]  # fmt: skip
    seeds += [file_of(Image.fromarray(RAMP.astype("uint16")[:4, :8]), "TIFF"), file_of(colors((8, 8)), "ICO")]
    readable = 0
    for number in range(10_000):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(content) or 1)
            change = draw.randrange(4)
            if change == 0:
                content[place : place + 1] = bytes([draw.randrange(256)])
            elif change == 1:
                content[place : place + 4] = draw.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x01\0\0\0"])
            elif change == 2:
                del content[place : place + draw.randint(1, 40)]
            else:
                content[place:place] = content[place : place + draw.randint(1, 40)]
        try:
            open_image(bytes(content), exif_transpose=True, max_pixels=1_000_000)
            readable += 1
        except ImageError as error:
            assert " at 0x" not in str(error)  # noqa: PT017
    assert 100 < readable < 9_900


@pytest.fixture
def odd_names(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = file_name("caf\\udce9.png")
    try:
        (folder / odd).write_bytes(file_of(colors()))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    (folder / "plain.png").write_bytes(file_of(colors()))
    return folder


def test_non_utf8_names_are_kept(odd_names, shapes, tmp_path):
    (odd, _) = list_images(odd_names)
    index = retrieval.InMemoryIndex(shapes)
    assert index.add(odd_names) == 2
    index.save(tmp_path / "index")
    loaded = retrieval.open_index(tmp_path / "index", shapes, image_root=odd_names)
    assert loaded.names[0] == printable(str(odd))
    assert loaded.get_image_path(0) == odd
    assert distributed.embed(MODEL, odd_names, tmp_path / "vectors")[:2] == (2, 0)
    assert distributed.embed(MODEL, odd_names, tmp_path / "vectors")[:4] == (0, 0, 0, 1)


def test_paths_have_one_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forms = ["photos/0.png", "./photos/0.png", "photos//0.png", tmp_path / "photos" / "0.png", "photos/../photos/0.png"]
    assert {canonical_path(form) for form in forms} == {(tmp_path / "photos" / "0.png").as_posix()}
    assert canonical_path("s3://bucket//0.png") == "s3://bucket//0.png"


def test_files_that_do_not_look_like_images_are_counted(tmp_path):
    for name in ("a.png", "a.txt", ".hidden", "b.raw", "c.heic9", "d.jp2", "e.avif", "f.ppm"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out 2 files whose names do not end like an image's: b\.raw, c\.heic9"):
        names = [path.name for path in list_images(tmp_path)]
    assert names == ["a.png", "d.jp2", "e.avif", "f.ppm"]
