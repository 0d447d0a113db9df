"""Downloads from the Hugging Face hub, played by a server on this machine."""

import shutil
import threading
import time

import pytest
import safetensors.numpy
from hub_stand_in import COMMITS, CONTENT, FILE, REPOSITORY, SHA256, Hub
from huggingface_hub import constants
from make_references import CLASSES, REFERENCES

from convnext_keras import ConvNeXt, WeightsError, checkpoints, create_model, load_weights
from convnext_keras.checkpoints import download
from convnext_keras.checkpoints.download import VerifiedFile
from convnext_keras.checkpoints.registry import fetch_weights, load_registry, warn_restricted_license
from convnext_keras.data.class_names import load_class_names

pytestmark = pytest.mark.any_backend


def test_fetched_once_and_found_again_offline(hub_server, monkeypatch):
    path, _ = download.fetch_from_hub(REPOSITORY, [FILE])
    assert path.read_bytes() == CONTENT
    assert Hub.requests.count(f"GET /{REPOSITORY}/resolve/main/{FILE}") == 1
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    Hub.requests.clear()
    assert download.fetch_from_hub(REPOSITORY, [FILE]).path == path
    assert not Hub.requests


def test_other_names_of_a_file_are_tried_in_order(hub_server, monkeypatch):
    """LAION's repositories have one of two .safetensors files, or none; a header of the Hub names the commit."""
    monkeypatch.setattr(Hub, "missing_entries", True)
    path, _ = download.fetch_from_hub(REPOSITORY, ["open_clip_model.safetensors", FILE])
    assert path.read_bytes() == CONTENT
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    assert download.fetch_from_hub(REPOSITORY, ["open_clip_model.safetensors", FILE]).path == path
    monkeypatch.delenv("CONVNEXT_KERAS_OFFLINE")
    row = load_registry("clip")["convnext_base.laion400m_s13b_b51k"]
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors or .*\.bin .*convnext-keras convert"):
        fetch_weights(row._replace(repository=REPOSITORY))


def test_a_revision_can_be_pinned(hub_server):
    row = load_registry()["convnext_tiny.in12k_ft_in1k"]
    assert "/snapshots/" + COMMITS["main"] in str(fetch_weights(row).path)
    assert "/snapshots/" + COMMITS["v2"] in str(fetch_weights(row._replace(revision="v2")).path)
    asked = [request for request in Hub.requests if "/resolve/v2/" in request]
    with pytest.raises(WeightsError, match="does not fit"):  # The file is of a small model.
        create_model("convnext_tiny", weights="in12k_ft_in1k@v2")
    assert len([request for request in Hub.requests if "/resolve/v2/" in request]) > len(asked)


def test_corrupted_cache_files_are_downloaded_again(hub_server):
    path, _ = download.fetch_from_hub(REPOSITORY, [FILE])
    damaged = bytearray(CONTENT)
    damaged[-1] ^= 1
    path.resolve().write_bytes(damaged)
    assert download.fetch_from_hub(REPOSITORY, [FILE]).path.read_bytes() == CONTENT


def test_content_that_differs_from_the_hub_is_rejected(hub_server, monkeypatch):
    monkeypatch.setattr(Hub, "fault", "wrong")
    with pytest.raises(OSError, match="its sha256 is not the one that the hub states"):
        download.fetch_from_hub(REPOSITORY, [FILE])


@pytest.mark.parametrize("fault", [401, 403, 404, 429, 500, "cut", "stall"])
def test_errors_leave_no_files(fault, hub_server, monkeypatch):
    monkeypatch.setattr(Hub, "fault", fault)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # The hub's library waits between its tries.
    if fault == "stall":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    with pytest.raises(OSError, match=f"{FILE} of https://huggingface.co/{REPOSITORY} could not be had"):
        download.fetch_from_hub(REPOSITORY, [FILE])
    assert not list(hub_server.rglob(FILE))


def test_concurrent_downloads_return_the_same_file(hub_server):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download.fetch_from_hub(REPOSITORY, [FILE]))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert all(file.path.read_bytes() == CONTENT for file in found)


def test_standard_output_stays_empty(hub_server, capfd):
    download.fetch_from_hub(REPOSITORY, [FILE])
    assert capfd.readouterr().out == ""


def test_offline_and_missing(hub_server, monkeypatch):
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"convnext_tiny\.in12k_ft_in1k.*CONVNEXT_KERAS_OFFLINE"):
        create_model("convnext_tiny.in12k_ft_in1k")
    assert not Hub.requests


def stand_in(monkeypatch, tmp_path, **arguments):
    """A small file and its architecture replace a weight set of the registry."""
    path = tmp_path / "small.safetensors"
    shutil.copy(REFERENCES / "timm_plain.safetensors", path)
    monkeypatch.setattr(checkpoints, "fetch_weights", lambda row, top: VerifiedFile(path, SHA256))
    return {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16), "classes": CLASSES, **arguments}


def test_weight_set_defines_statistics_size_and_classes(monkeypatch, tmp_path):
    row = load_registry()["convnext_base.clip_laion2b_augreg_ft_in12k_in1k"]
    model = ConvNeXt(**stand_in(monkeypatch, tmp_path, weights=row))
    assert model.input_shape == (None, 256, 256, 3)
    mean = model.get_layer("convnext_prestem_normalization").input_mean
    assert [round(float(value), 3) for value in mean] == [122.771, 116.746, 104.094]
    assert model.pretrained_info.class_names == load_class_names("imagenet-1k")
    assert model.pretrained_info.transform.size == 256
    another = ConvNeXt(**stand_in(monkeypatch, tmp_path, weights=row, input_shape=(64, 96, 3)))
    assert another.input_shape == (None, 64, 96, 3)


@pytest.mark.parametrize("tag", ["dinov3_lvd1689m", "eupe_lvd1689m"])
def test_headless_sets_have_no_classifier(tag, monkeypatch, tmp_path):
    row = load_registry()[f"convnext_tiny.{tag}"]
    warn_restricted_license.cache_clear()
    with pytest.raises(ValueError, match=f"convnext_tiny.{tag} has no classifier. Use include_top=False"):
        ConvNeXt(**stand_in(monkeypatch, tmp_path, weights=row))
    model = ConvNeXt(**stand_in(monkeypatch, tmp_path, weights=row, include_top=False, pooling="avg"))
    assert model.output_shape == (None, 16)


def test_files_without_a_last_norm_warn(monkeypatch, tmp_path):
    """FCMAE's files end before it, and timm leaves it at 1 and 0."""
    row = load_registry()["convnextv2_atto.fcmae"]
    arguments = stand_in(monkeypatch, tmp_path, weights=row, include_top=False, pooling="avg")
    tensors = safetensors.numpy.load_file(tmp_path / "small.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    safetensors.numpy.save_file(tensors, tmp_path / "small.safetensors")
    with pytest.warns(UserWarning, match="last norm of 'convnext' keeps its initial 1 and 0"):
        ConvNeXt(**arguments)
    with pytest.raises(WeightsError, match="2 missing: head_layernorm/gamma"):
        load_weights(ConvNeXt(**{**arguments, "weights": None}), tmp_path / "small.safetensors")


def test_restricted_licenses_warn_once(monkeypatch):
    monkeypatch.setattr(download, "fetch_from_hub", lambda *arguments: None)
    row = load_registry()["convnextv2_atto.fcmae_ft_in1k"]
    warn_restricted_license.cache_clear()
    with pytest.warns(UserWarning, match=r"cc-by-nc-4\.0: not for commercial use"):
        fetch_weights(row)
    fetch_weights(row)  # Warnings are errors in these tests: a second one would fail.
