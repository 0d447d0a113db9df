"""Sharded weights, and invalid indexes."""

import json

import numpy as np
import pytest
import safetensors.numpy
from backends import outputs
from make_references import CLASSES, REFERENCES, SMALL, arrays_of

from convnext_keras import ConvNeXt, WeightsError, load_weights
from convnext_keras.checkpoints.shards import open_checkpoint

pytestmark = pytest.mark.any_backend

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture
def index(tmp_path):
    """A checkpoint of transformers as `save_pretrained(max_shard_size=...)` cuts it."""
    tensors = safetensors.numpy.load_file(REFERENCES / "transformers_plain.safetensors")
    files = {name: SHARDS[number % 3] for number, name in enumerate(tensors)}
    for shard in SHARDS:
        part = {name: tensor for name, tensor in tensors.items() if files[name] == shard}
        safetensors.numpy.save_file(part, tmp_path / shard, {"format": "pt"})
    return written(tmp_path, files)


def written(folder, files, **others):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files, **others}))
    return path


def small(**arguments):
    return ConvNeXt(**SMALL, classes=CLASSES, classifier_activation=None, input_shape=(48, 64, 3), **arguments)


def test_sharded_files_equal_the_single_file(index):
    pixels = arrays_of(REFERENCES / "keras.npz")["pixels"].astype("float32")
    expected = arrays_of(REFERENCES / "transformers_plain.npz")["logits"]
    model = small(weights=index)
    np.testing.assert_allclose(outputs(model, pixels), expected, atol=1e-4)
    assert model.pretrained_info.weights_file == index


def test_tensors_that_the_index_leaves_out_are_read_too(index):
    files = json.loads(index.read_text())["weight_map"]
    few = {name: file for number, (name, file) in enumerate(files.items()) if number < 3}
    with open_checkpoint(written(index.parent, few)) as file:
        assert file.headers.keys() == files.keys()


def lies(files):
    """Changed indexes by what is wrong with them: the text of the file, and what the error says."""
    first = next(iter(files))

    def changed(name):
        return json.dumps({"weight_map": {**files, first: name}})

    return {
        "parent": (changed("../model.safetensors"), "must be a bare name"),
        "absolute": (changed("/etc/model.safetensors"), "must be a bare name"),
        "folder": (changed("a/b.safetensors"), "must be a bare name"),
        "backslash": (changed("..\\b.safetensors"), "must be a bare name"),
        "pickle": (changed("pytorch_model.bin"), "must be a bare name"),
        "number": (changed(7), "must be a bare name"),
        "missing shard": (changed("other.safetensors"), "no such file"),
        "another shard": (changed(SHARDS[1]), "is not in"),
        "unknown tensor": (json.dumps({"weight_map": {**files, "x": SHARDS[0]}}), "'x' is not in"),
        "no map": ("{}", "'weight_map' must be an object"),
        "empty map": ('{"weight_map": {}}', "'weight_map' must be an object"),
        "list": ("[]", "must be an object"),
        "not JSON": ("{", "broken or not JSON"),
        "deep": ("[" * 100_000, "broken or not JSON"),
        "twice": ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "names 'a' twice"),
        "many shards": (json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(1001)}}), "more than"),
        "many tensors": (json.dumps({"weight_map": {str(n): "a.safetensors" for n in range(10_001)}}), "more than"),
        "large": (" " * 2_000_001, "has more than"),
        "page": ("<html>", "broken or not JSON"),
    }


@pytest.mark.parametrize("lie", lies({"a": "b"}))
def test_invalid_indexes_are_rejected(lie, index):
    text, message = lies(json.loads(index.read_text())["weight_map"])[lie]
    index.write_text(text)
    model = small()
    before = model.get_weights()
    with pytest.raises(WeightsError, match=message):
        load_weights(model, index)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_tensor_in_two_shards_is_refused(index):
    tensors = safetensors.numpy.load_file(index.parent / SHARDS[0])
    other = safetensors.numpy.load_file(index.parent / SHARDS[1])
    safetensors.numpy.save_file({**other, **dict([next(iter(tensors.items()))])}, index.parent / SHARDS[1])
    with pytest.raises(WeightsError, match="is in two of its files"):
        small(weights=index)


def test_a_shard_that_is_a_link_to_elsewhere_is_refused(index, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.safetensors"
    (index.parent / SHARDS[0]).rename(elsewhere)
    (index.parent / SHARDS[0]).symlink_to(elsewhere)
    with pytest.raises(WeightsError, match="is a link to elsewhere"):
        small(weights=index)


def test_links_of_the_hub_cache_are_followed(index, tmp_path_factory):
    """There a snapshot is a folder of links into one folder of blobs."""
    blobs, snapshot = tmp_path_factory.mktemp("blobs"), tmp_path_factory.mktemp("snapshot")
    for file in index.parent.iterdir():
        target = blobs / file.name.replace("model", "blob")
        file.rename(target)
        (snapshot / file.name).symlink_to(target)
    small(weights=snapshot / index.name)
