"""Images of strangers: odd ones and bombs."""

import asyncio
import base64
import concurrent.futures
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from serving import data_uri, get, png, post

from convnext_keras.server import image_decoding
from convnext_keras.server.errors import ApiError
from convnext_keras.server.image_decoding import Decoder, PixelBudget, check_structure
from convnext_keras.server.limits import ServerLimits

pytestmark = pytest.mark.any_backend


ODD = {
    "gray": ("L", "PNG"),
    "16 bits": ("I;16", "PNG"),
    "one bit": ("1", "PNG"),
    "palette with transparency": ("P", "GIF"),
    "with alpha": ("RGBA", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "WebP": ("RGB", "WEBP"),
}


@pytest.mark.integration
@pytest.mark.parametrize("case", ODD)
def test_unusual_images_equal_the_library(case, address, model, tmp_path):
    mode, kind = ODD[case]
    buffer = io.BytesIO()
    noise = Image.effect_noise((90, 70), 60)
    (noise if mode == "I;16" else noise.convert("RGB")).convert(mode).save(buffer, kind)
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(buffer.getvalue())
    body = {"input": [{"image": base64.encodebytes(buffer.getvalue()).decode()}]}  # with line breaks
    found = post(address, "/v1/embeddings", body).json()["data"][0]["embedding"]
    np.testing.assert_allclose(found, model.encode_image(path)[0], atol=1e-5)


def jpeg(width, height, **options):
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_of_many_scans(scans, size=2000):
    """A progressive JPEG whose last scan is there many times: each one draws all of its pixels anew."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * scans + content[-2:]


def jpeg_of_many_segments():
    content = jpeg(64, 64)
    return content[:2] + b"\xff\xfe\x00\x02" * 1_000_000 + content[2:]


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png_of_many_chunks():
    content = png(np.zeros((64, 64, 3), "uint8"))
    return content[:33] + chunk(b"tEXt", b"a\0b") * 250_000 + content[33:]


def gif_of_many_blocks():
    buffer = io.BytesIO()
    Image.new("P", (64, 64)).save(buffer, "GIF")
    content = buffer.getvalue()
    start = 13 + (3 << ((content[10] & 7) + 1) if content[10] & 0x80 else 0)
    return content[:start] + b"\x21\xfe" + b"\x01x" * 2_000_000 + b"\0" + content[start:]


def webp_of_many_chunks():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    content = buffer.getvalue() + b"JUNK\0\0\0\0" * 500_000
    return content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]


def thin():
    """Half a million pixels, and a thousand million once the shorter edge is resized."""
    return png(np.zeros((500_000, 1, 3), "uint8"))


BOMBS = {
    "JPEG of many scans": (lambda: jpeg_of_many_scans(400), "image_too_complex"),
    "JPEG of many pixels and scans": (lambda: jpeg_of_many_scans(35, size=6000), "image_too_large"),
    "JPEG of many segments": (jpeg_of_many_segments, "image_too_complex"),
    "PNG of many chunks": (png_of_many_chunks, "image_too_complex"),
    "GIF of many blocks": (gif_of_many_blocks, "image_too_complex"),
    "WebP of many chunks": (webp_of_many_chunks, "image_too_complex"),
    "thin": (thin, "image_too_large"),
}


@pytest.mark.integration
@pytest.mark.parametrize("case", BOMBS)
def test_decompression_bombs_do_not_block(case, address):
    """While four bombs are sent, the next good request and `/health` are answered."""
    make, code = BOMBS[case]
    bomb = {"input": [{"image": base64.b64encode(make()).decode()}]}
    good = {"input": [{"image": data_uri(png(np.zeros((64, 64, 3), "uint8")))}]}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        bombs = [pool.submit(post, address, "/v1/embeddings", bomb) for _ in range(4)]
        assert post(address, "/v1/embeddings", good).status_code == 200
        assert get(f"{address}/health").status_code == 200
        answers = [bomb.result() for bomb in bombs]
    assert {answer.json()["error"]["code"] for answer in answers} == {code}


@pytest.mark.parametrize("case", BOMBS)
def test_decompression_bombs_are_rejected_before_decoding(case, model, monkeypatch):
    """No pixel is decoded, and no more parts are read than the limit allows."""
    make, code = BOMBS[case]
    content, limits, read = make(), ServerLimits(), []

    def counted(parts):
        return lambda content: (read.append(part) or part for part in parts(content))

    monkeypatch.setattr(
        image_decoding,
        "STRUCTURE_PARSERS",
        {magic: counted(parts) for magic, parts in image_decoding.STRUCTURE_PARSERS.items()},
    )
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    decoder = Decoder(model.transform, limits, threads=1)
    with pytest.raises(ApiError) as caught:
        decoder.open_header(content, "input.0")
    decoder.close()
    assert caught.value.code == code
    assert len(read) <= limits.max_image_parts + limits.max_image_scans + 1


@pytest.mark.slow
def test_ordinary_images_pass_the_structure_check():
    """Ordinary images of cameras and programs are far below the limits."""
    limits, noise = ServerLimits(), Image.effect_noise((3000, 2000), 60).convert("RGB")
    for kind, options in (("JPEG", {"progressive": True}), ("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("GIF", {})):
        buffer = io.BytesIO()
        noise.save(buffer, kind, **options)
        assert check_structure(buffer.getvalue(), "input.0", limits) <= 12
    camera = io.BytesIO()
    noise.save(camera, "JPEG", exif=b"Exif\0\0" + jpeg(200, 150, progressive=True), icc_profile=bytes(500_000))
    assert check_structure(camera.getvalue(), "input.0", limits) == 1  # The preview's scans are not the image's.


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9, 12, 20, 60])
@pytest.mark.parametrize(
    "start", [b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"\xff\xd8\xff\xda\0\0", b"GIF89a" + b"!" * 40]
)
def test_truncated_images_are_rejected(start, length):
    assert check_structure(start + bytes(length), "input.0", ServerLimits()) >= 1


def test_pixels_in_flight_are_bounded():
    """Images wait until those before them are decoded; one larger than the bound still comes alone."""
    running, most = 0, []

    async def decode(budget, pixels):
        nonlocal running
        await budget.acquire(pixels)
        running += pixels
        most.append(running)
        await asyncio.sleep(0.001)
        running -= pixels
        await budget.release(pixels)

    async def together():
        budget = PixelBudget(100)
        await asyncio.gather(*(decode(budget, pixels) for pixels in (40, 40, 40, 250, 90, 10, 100)))
        assert budget.used == 0

    asyncio.run(together())
    assert sorted(most)[-1] == 250
    assert sorted(most)[-2] <= 100


def test_the_decoder_keeps_to_its_budget(model):
    decoder = Decoder(model.transform, ServerLimits(max_pixels_in_flight=64 * 64), threads=2)
    seen = []
    decode = decoder.transform

    def counted(image):
        seen.append(decoder.budget.used)
        return decode(image)

    decoder.transform = type(
        "Counted", (), {"resize_size_for": decode.resize_size_for, "__call__": staticmethod(counted)}
    )()

    async def together():
        content = png(np.zeros((64, 64, 3), "uint8"))
        await asyncio.gather(*(decoder(content, "input.0") for _ in range(6)))

    asyncio.run(together())
    decoder.close()
    assert seen == [64 * 64] * 6
