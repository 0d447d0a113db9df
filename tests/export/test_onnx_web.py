"""The web page prepares images and texts as Python does, and its scores in Chromium are those of Keras."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import TIMEOUT

from convnext_keras import clip, create_model, export, samples
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.export.onnx_web import RUNTIME_URL, image_facts
from convnext_keras.export.tokenizer_file import tokenizer_json

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
PAGE = Path(export.__file__).parent / "web_example"
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
needs_chromium = pytest.mark.skipif(
    not shutil.which("npm") or not shutil.which("chromium") or not shutil.which("chromedriver"),
    reason="no npm or Chromium here",
)


def node(program, value):
    """Runs a program that imports the page's modules, with a value as `input`; gives what it prints."""
    script = f"const input = JSON.parse(require('fs').readFileSync(0)); (async () => {{ {program} }})()"
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps(value), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The modules under names that Node takes for modules."""
    folder = tmp_path_factory.mktemp("modules")
    for name in ("image", "tokenizer"):
        shutil.copyfile(PAGE / f"{name}.js", folder / f"{name}.mjs")
    return folder


TRANSFORMS = {
    "larger": ImageTransform(32),
    "cropped": ImageTransform(48, crop_pct=0.875),
    "bilinear": ImageTransform(40, interpolation="bilinear", crop_pct=0.95),
    "squashed": ImageTransform((32, 48), resize_mode="squash"),
    "enlarged": ImageTransform(160),
    "gray": ImageTransform(32, channels=1),
}


@needs_node
@pytest.mark.parametrize("size", [(64, 64), (101, 67), (67, 101), (33, 200)])
@pytest.mark.parametrize("case", TRANSFORMS)
def test_pixels_equal_those_of_pillow(case, size, modules):
    transform = TRANSFORMS[case]
    pixels = np.random.default_rng(0).integers(50, 206, (size[1], size[0], 3), "uint8")
    image = {"width": size[0], "height": size[1], "channels": 3, "data": pixels.ravel().tolist()}
    found = node(
        f"const m = await import('{modules}/image.mjs');"
        "input.image.data = Uint8Array.from(input.image.data);"
        "console.log(JSON.stringify(Array.from(m.prepare(input.image, input.settings).data)));",
        {"image": image, "settings": image_facts(transform)},
    )
    expected = transform(Image.fromarray(pixels)).astype(int)
    assert np.abs(np.reshape(found, transform.shape) - expected).max() <= 1  # versions of Pillow differ by as much


@needs_node
@pytest.mark.parametrize("vocab_size", [49_408, 1_000])
def test_token_ids_equal_those_of_python(vocab_size, modules):
    tokenizer = Tokenizer(vocab_size)
    texts = ["a red star", " It's  25 o'clock!\n", "", "red " * 100, "Größe: 3½ µm", "日本の駅 🦊🦊", "x" * 300]
    found = node(
        f"const m = await import('{modules}/tokenizer.mjs');"
        "const tokenizer = new m.Tokenizer(input.file, 77);"
        "console.log(JSON.stringify(input.texts.map((text) => Array.from(tokenizer.encode(text)))));",
        {"file": tokenizer_json(tokenizer), "texts": texts},
    )
    np.testing.assert_array_equal(found, tokenizer(texts, truncate="silent"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The files of ONNX Runtime Web, of the version that the page names."""
    folder = tmp_path_factory.mktemp("npm")
    name = RUNTIME_URL.split("/npm/")[1].split("/")[0]
    packed = subprocess.run(["npm", "pack", name], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    if packed.returncode:
        pytest.skip(f"npm's registry cannot be reached: {packed.stderr[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return folder / "package" / "dist"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Serves a folder on loopback as any file server does; gives its address."""
    servers = []

    def start(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def classified(browser, address, path, labels=None):
    """The rows of the table that the page shows for an image."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    status = browser.find_element("id", "status")
    WebDriverWait(browser, TIMEOUT).until(lambda _: not status.text.startswith("Loading"))
    assert status.text == "Choose an image, or drop one here."
    if labels:
        field = browser.find_element("id", "labels")
        field.clear()
        field.send_keys(labels)
    browser.find_element("id", "file").send_keys(str(path))
    WebDriverWait(browser, TIMEOUT).until(lambda _: not status.text.startswith(("Choose", "Computing")))
    assert status.text == "Done."
    rows = browser.find_elements("css selector", "#results tbody tr")
    return [(row.find_elements("tag name", "td")[0].text, row.find_elements("tag name", "td")[1].text) for row in rows]


@needs_chromium
@pytest.mark.parametrize("kind", ["classifier", "clip"])
def test_scores_in_chromium_equal_those_of_keras(kind, tmp_path, runtime, serve, browser):
    path = tmp_path / "image.png"
    labels = ["a red circle", "a blue star", "a green square"]
    if kind == "clip":
        model, pixels = clip.create_model("convnext_mini.shapes"), samples.load_shapes()[0][3]
        expected = clip.ZeroShotClassifier(model, labels, "{}").predict(pixels, top_k=3)[0]
        expected = [(row.label, row.probability) for row in expected]
        written = export.export_onnx_web(model, tmp_path / "page", runtime_url="./ort/", template="{}", verify=False)
    else:
        model, pixels = create_model("convnext_mini.digits"), samples.load_digits()[0][77]
        classes = [name for _, name in model.pretrained_info.class_names]
        pixels = np.asarray(Image.fromarray(pixels).resize((50, 40)))
        scores = np.asarray(model.predict(model.pretrained_info.transform(pixels)[None], verbose=0))[0]
        expected = [(classes[i], scores[i]) for i in np.argsort(-scores)[:5]]
        written = export.export_onnx_web(model, tmp_path / "page", runtime_url="./ort/", verify=False)
    Image.fromarray(pixels).save(path)
    (written.path / "ort").symlink_to(runtime)
    found = classified(browser, serve(written.path), path, ", ".join(labels) if kind == "clip" else None)
    assert [label for label, _ in found] == [label for label, _ in expected]
    np.testing.assert_allclose([float(score) for _, score in found], [score for _, score in expected], atol=2e-4)


def test_unknown_transforms_and_models_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="shorter edge"):
        image_facts(ImageTransform(32, resize_mode="pad"))
    with pytest.raises(ValueError, match="A page is of a classifier"):
        export.export_onnx_web(clip.create_model("convnext_mini.shapes").image_encoder, tmp_path / "page")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="exists"):
        export.export_onnx_web("convnext_mini.digits", tmp_path / "mine", overwrite=True)
