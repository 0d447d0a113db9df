"""Both towers in another program are the ConvNeXt-CLIP that they were written from, whoever uses them."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from benchmark_report import processor
from typer.testing import CliRunner
from waiting import TIMEOUT

from convnext_keras import clip, export, retrieval, samples
from convnext_keras.cli import app
from convnext_keras.export import api
from convnext_keras.export import clip as export_clip
from convnext_keras.inference import pad_batch

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
NAME = "convnext_mini.shapes"
TEXTS = ["green", "a red star", "three small blue circles in the upper left corner of an image on a noisy ground"]


@pytest.fixture(scope="module")
def model():
    return clip.create_model(NAME)


def test_processes_that_need_the_same_export_write_it_once(monkeypatch):
    """Several callers come while the first one writes; all get the folder that it wrote."""
    calls, entered, more = [], threading.Event(), threading.Event()

    def slow(model, folder, format):
        calls.append(folder)
        entered.set()
        more.wait(TIMEOUT)
        folder.mkdir()
        (folder / export_clip.CLIP_FILE).write_text("{}")

    monkeypatch.setattr(export_clip, "export_clip", slow)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = pool.submit(export_clip.get_or_export_clip, NAME, "openvino")
        assert entered.wait(TIMEOUT)
        others = [pool.submit(export_clip.get_or_export_clip, NAME, "openvino") for _ in range(3)]
        more.set()
        assert {result.result(TIMEOUT) for result in (first, *others)} == {*calls}
    assert len(calls) == 1


@pytest.fixture(scope="module", params=export.CLIP_FORMATS)
def folder(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "shapes"
    written = export.export_clip(model, path, request.param)
    assert written.max_relative_error < 1e-5
    assert written.path == path
    return path


def test_exported_clip_embeddings_equal_the_model(folder, model):
    exported, (images, captions) = export.ExportedCLIP(folder), samples.load_shapes()
    for texts in ([*TEXTS], TEXTS[:1], captions[:5]):
        np.testing.assert_allclose(exported.encode_text(texts), model.encode_text(texts), atol=1e-6)
    np.testing.assert_allclose(exported.encode_image(images[:5]), model.encode_image(images[:5]), atol=1e-6)
    scores, expected = (each.similarity(images[:2], TEXTS[:2]) for each in (exported, model))
    np.testing.assert_allclose(scores.probs, expected.probs, atol=1e-5)
    assert (exported.name, exported.transform, exported.embed_dim) == (NAME, model.transform, model.embed_dim)
    assert exported.pretrained_info.license == model.pretrained_info.license


def test_streams_do_not_change_embeddings(folder, model):
    """Four threads call two streams with batches of their own, again and again."""
    exported, (images, captions) = export.ExportedCLIP(folder, streams=2), samples.load_shapes()
    of_images, of_texts = model.encode_image(images[:16]), model.encode_text(captions[:16])

    def differences(number):
        rows = slice(4 * number, 4 * number + 4)
        for _ in range(10):
            yield np.abs(exported.encode_image(images[rows]) - of_images[rows]).max()
            yield np.abs(exported.encode_text(captions[rows]) - of_texts[rows]).max()

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda number: max(differences(number)), range(4))]
    assert max(found) < 1e-6


def test_an_index_of_the_model_is_one_of_its_towers(folder, model, tmp_path):
    images, captions = samples.load_shapes()
    index = retrieval.InMemoryIndex(model)
    index.add(list(images[:8]), captions[:8])
    index.save(tmp_path / "index")
    read = retrieval.InMemoryIndex.load(tmp_path / "index", export.ExportedCLIP(folder))
    (hit,), (expected,) = read.search(captions[3], 1), index.search(captions[3], 1)
    assert (hit.name, hit.index) == (expected.name, expected.index)
    assert hit.cosine == pytest.approx(expected.cosine, abs=1e-6)


def test_commands_take_the_folder(folder, tmp_path):
    images, captions = samples.load_shapes()
    from PIL import Image

    Image.fromarray(images[0]).save(tmp_path / "shape.png")
    words = ["zero-shot", str(tmp_path / "shape.png"), "--labels", f"{captions[0]},{captions[9]}", "--template", "{}"]
    result = CliRunner().invoke(app, [*words, "--weights", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["predictions"][0]["label"] == captions[0]


def test_the_command_writes_both_towers(tmp_path):
    words = ["export", NAME, "--format", "openvino", "--output", str(tmp_path / "out"), "--no-verify"]
    result = CliRunner().invoke(app, [*words, "--precision", "float16"])
    assert result.exit_code == 0, result.output
    assert "openvino in float16" in result.output
    assert export.ExportedCLIP(tmp_path / "out").facts["precision"] == "float16"


def test_int8_embeddings_are_close(model, tmp_path):
    images, captions = samples.load_shapes()
    written = export.export_clip(
        model, tmp_path / "int8", precision="int8", calibration_data=list(images[:24]), verify=False
    )
    exported = export.ExportedCLIP(written.path)
    bound = 0.99 if processor()[1] == "AVX2" else 0.995  # Sums of products saturate where VNNI is missing.
    assert (exported.encode_image(images[24:]) * model.encode_image(images[24:])).sum(axis=1).min() > bound
    assert (exported.encode_text(captions) * model.encode_text(captions)).sum(axis=1).min() > 0.999


def test_towers_are_exported_once_per_runtime(model, monkeypatch):
    first = export.get_or_export_clip(NAME, "openvino")
    monkeypatch.setattr(export_clip, "create_model", None)
    assert export.get_or_export_clip("shapes", "openvino") == first
    assert export.ExportedCLIP(first).fingerprint() == model.fingerprint()


def test_export_clip_rejects_invalid_arguments(model, folder, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="format must be 'onnx' or 'openvino' for both towers. Received: format='torch'"
    ):
        export.export_clip(model, tmp_path / "a", "torch")
    with pytest.raises(ValueError, match="streams must be 1, or more for openvino and onnx. Received: streams=0"):
        export.ExportedCLIP(folder, streams=0)
    with pytest.raises(ValueError, match="has no clip.json"):
        export.ExportedCLIP(tmp_path)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="taken exists. Choose another"):
        export.export_clip(model, taken, overwrite=True)
    monkeypatch.setattr(api, "write_model", None)  # Images too few are told before either tower is written.
    with pytest.raises(ValueError, match="calibration needs 16 images or more. Received: 3"):
        export.export_clip(model, tmp_path / "a", precision="int8", calibration_data=list(samples.load_shapes()[0][:3]))
    shutil.copytree(folder, tmp_path / "b")
    classifier = clip.ZeroShotClassifier(export.ExportedCLIP(tmp_path / "b"), ["a", "b"])
    with pytest.raises(ValueError, match="The towers are exported already"):
        classifier.to_keras_model()
    assert (taken / "letter.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "b"}
    for path in (tmp_path / "b").glob("text*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no metadata file"):
        export.ExportedCLIP(tmp_path / "b")


def test_serve_runs_without_training_backends(folder):
    """An exported ConvNeXt-CLIP is served without TensorFlow, JAX and PyTorch."""
    pytest.importorskip("fastapi")
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("tensorflow", "jax", "torch"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from starlette.testclient import TestClient
from convnext_keras.server import create_app
with TestClient(create_app({str(folder)!r}), base_url="http://127.0.0.1") as client:
    answer = client.post("/v1/embeddings", json={{"input": "a red star", "model": {NAME!r}}})
print(answer.json()["data"][0]["embedding"])
"""
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = clip.create_model(NAME).encode_text("a red star")[0]
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-5)


def test_serve_rejects_another_runtime(folder):
    pytest.importorskip("fastapi")
    from convnext_keras.server import create_app

    other = next(name for name in export.CLIP_FORMATS if name != export.ExportedCLIP(folder).format)
    with pytest.raises(ValueError, match=f"Received: runtime='{other}'"):
        create_app(str(folder), runtime=other)
    with pytest.raises(ValueError, match="format must be 'onnx' or 'openvino'"):
        create_app(NAME, runtime="onnxruntime")


def test_batches_are_padded_to_buckets():
    """Batches are padded to powers of two on compiling runtimes, and to quarter steps between them on others."""
    sizes = {
        steps: [len(pad_batch(np.ones((count, 2)), 32, steps)) for count in range(1, 33)]
        for steps in (1, export_clip.BATCH_BUCKETS)
    }
    assert sorted({*sizes[1]}) == [1, 2, 4, 8, 16, 32]
    assert sorted({*sizes[export_clip.BATCH_BUCKETS]}) == [*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32]
    assert all(count <= size < 1.25 * count for count, size in enumerate(sizes[export_clip.BATCH_BUCKETS], start=1))
    assert len(pad_batch(np.ones((49, 2)), 50, export_clip.BATCH_BUCKETS)) == 50
