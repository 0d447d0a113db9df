"""Search, and files of vectors."""

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from PIL import Image

from convnext_keras import WeightsError, clip, retrieval
from convnext_keras.data.loader import list_images
from convnext_keras.retrieval.factory import read_index_weights
from convnext_keras.retrieval.vector_files import write_vectors

SAME = 1e-5


@pytest.mark.any_backend
def test_search_is_exact(model, held_out):
    images, captions = held_out
    index = retrieval.InMemoryIndex(model)
    assert index.add(images, names=captions) == len(index) == 48
    query = "a small red circle on the left"
    cosines = model.encode_image(images) @ model.encode_text(query)[0]
    hits = index.search(query, top_k=7)
    assert [hit.name for hit in hits] == [captions[place] for place in np.argsort(-cosines, kind="stable")[:7]]
    np.testing.assert_allclose([hit.cosine for hit in hits], np.sort(cosines)[::-1][:7], atol=SAME)
    assert index.search(images[3], top_k=1)[0].name == captions[3]
    assert index.search(images[3], top_k=1)[0].cosine == pytest.approx(1, abs=SAME)
    assert len(index.search(query, top_k=1000)) == 48


@pytest.mark.any_backend
def test_index_grows_without_being_rewritten(model, folder, held_out, tmp_path):
    index = retrieval.InMemoryIndex(model)
    assert index.add(folder) == 12
    assert index.names == [str(path) for path in list_images(folder)]
    index.save(tmp_path / "index")
    first = (tmp_path / "index" / "0000.safetensors").stat()
    index.save(tmp_path / "index")
    index.add(held_out[0][20:23])
    index.save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "0000.csv", "0000.safetensors", "0001.csv", "0001.safetensors",
    ]  # fmt: skip
    assert (tmp_path / "index" / "0000.safetensors").stat() == first
    loaded = retrieval.InMemoryIndex.load(tmp_path / "index", model)
    assert loaded.names == [*index.names[:12], "image 12", "image 13", "image 14"]
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    assert read_index_weights(tmp_path / "index") == "convnext_mini.shapes"
    with pytest.raises(ValueError, match="holds another index"):
        retrieval.InMemoryIndex(model).save(tmp_path / "index")


@pytest.mark.any_backend
def test_indexes_of_other_models_and_broken_ones_are_refused(model, folder, tmp_path):
    index = retrieval.InMemoryIndex(model)
    index.add(folder)
    index.save(tmp_path / "index")
    other = clip.create_model("convnext_mini", weights=None)
    with pytest.raises(WeightsError, match="made by another model"):
        retrieval.InMemoryIndex.load(tmp_path / "index", other)
    table = tmp_path / "index" / "0000.csv"
    table.write_text("name\nonly one\n")
    with pytest.raises(WeightsError, match="12 vectors, but its table 1 names"):
        retrieval.InMemoryIndex.load(tmp_path / "index", model)
    (tmp_path / "index" / "0000.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="broken or not a file of vectors"):
        retrieval.InMemoryIndex.load(tmp_path / "index", model)
    with pytest.raises(WeightsError, match="holds no index"):
        retrieval.InMemoryIndex.load(tmp_path, model)
    with pytest.raises(WeightsError, match="holds no index"):
        read_index_weights(tmp_path)
    index = retrieval.InMemoryIndex(other)
    index.add(folder)
    index.save(tmp_path / "other")
    with pytest.raises(WeightsError, match="without published weights"):
        read_index_weights(tmp_path / "other")


@pytest.mark.any_backend
def test_add_is_atomic(model, folder, tmp_path):
    index = retrieval.InMemoryIndex(model)
    broken = next(folder.rglob("*.png"))
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=f"{broken.name} cannot be read"):
        index.add(folder)
    assert len(index) == len(index.vectors) == 0
    with pytest.warns(UserWarning, match=f"Skipped: .*{broken.name}"):
        assert index.add(folder, on_error="skip") == 11
    assert str(broken) not in index.names
    assert len(index.vectors) == 11
    with pytest.raises(ValueError, match="zip"):
        index.add([np.zeros((4, 4, 3), "uint8")] * 2, names=["one"])
    assert len(index) == 11
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        index.add(tmp_path / "empty")
    with pytest.raises(ValueError, match="text to search for is empty"):
        index.search("  ")
    with pytest.raises(ValueError, match="index is empty"):
        retrieval.InMemoryIndex(model).search("a")
    with pytest.raises(ValueError, match="top_k must be a whole number, 1 or more"):
        index.search("a", top_k=0)


@pytest.mark.any_backend
def test_vector_files_are_atomic(model, folder, tmp_path):
    path = tmp_path / "vectors.safetensors"
    assert write_vectors(path, model.iter_image_embeddings(folder.rglob("*.png"), batch_size=5), model) == 12
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["weights"] == "convnext_mini.shapes"
        np.testing.assert_allclose(file.get_tensor("vectors"), model.encode_image(folder.rglob("*.png")), atol=SAME)
    table = tmp_path / "vectors.parquet"
    assert write_vectors(table, model.iter_image_embeddings(list_images(folder), batch_size=5), model) == 12
    rows = pyarrow.parquet.read_table(table)
    assert rows["name"].to_pylist() == [str(path) for path in list_images(folder)]
    np.testing.assert_allclose(rows["vector"].to_pylist(), model.encode_image(list_images(folder)), atol=SAME)
    assert rows.schema.metadata[b"weights"] == b"convnext_mini.shapes"
    (folder / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        write_vectors(tmp_path / "new.safetensors", model.iter_image_embeddings(list_images(folder)), model)
    with pytest.raises(ValueError, match=r"end in .safetensors or .parquet"):
        write_vectors(tmp_path / "new.npy", [], model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]


def index_of(names, folder, model):
    """An index as it may come from elsewhere: its table names any files."""
    index = retrieval.InMemoryIndex(model)
    index.add([np.zeros((8, 8, 3), "uint8")] * len(names), names=names)
    index.save(folder)
    return folder


@pytest.mark.any_backend
def test_image_paths_outside_the_root_are_rejected(model, folder, tmp_path):
    index = retrieval.InMemoryIndex(model)
    index.add(folder)
    files = [path.resolve() for path in list_images(folder)]
    assert [index.get_image_path(position) for position in range(12)] == files
    index.save(tmp_path / "index")
    loaded = retrieval.InMemoryIndex.load(tmp_path / "index", model)
    assert [loaded.get_image_path(position) for position in range(12)] == files
    for position in (-1, 12):
        with pytest.raises(ValueError, match="position must be 0 to 11"):
            loaded.get_image_path(position)
    files[0].unlink()
    with pytest.raises(OSError, match="No such file"):
        loaded.get_image_path(0)


@pytest.mark.any_backend
def test_table_with_other_files_is_rejected(model, folder, tmp_path):
    secret, inside = tmp_path / "secret.png", next(folder.rglob("*.png"))
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "link.png").symlink_to(secret)
    names = [str(secret), str(folder / "link.png"), str(folder / ".." / "secret.png"), str(inside), "/etc/hostname"]
    elsewhere = tmp_path / "elsewhere"
    loaded = retrieval.InMemoryIndex.load(index_of(names, elsewhere / "index", model), model)
    assert loaded.image_roots == []
    for position in range(len(names)):
        with pytest.raises(ValueError, match="Name the folder that its images lie in"):
            loaded.get_image_path(position)
    trusted = retrieval.InMemoryIndex.load(elsewhere / "index", model, image_root=folder)
    assert trusted.get_image_path(3) == inside.resolve()
    for position in (0, 1, 2, 4):
        with pytest.raises(ValueError, match="is no file below the folders"):
            trusted.get_image_path(position)
    with pytest.raises(ValueError, match="missing is not a folder"):
        retrieval.InMemoryIndex.load(elsewhere / "index", model, image_root=tmp_path / "missing")


@pytest.mark.any_backend
@pytest.mark.parametrize("claim", ["..", "../..", "/", "/etc", "", "a/../../.."])
def test_index_cannot_claim_a_distant_directory(claim, model, tmp_path):
    folder = index_of(["a"], tmp_path / "indexes" / "index", model)
    vectors = safetensors.numpy.load_file(folder / "0000.safetensors")
    with safetensors.safe_open(folder / "0000.safetensors", "numpy") as file:
        metadata = {**file.metadata(), "folder": claim}
    safetensors.numpy.save_file(vectors, folder / "0000.safetensors", metadata)
    assert retrieval.InMemoryIndex.load(folder, model).image_roots == []


@pytest.mark.any_backend
def test_repr_shows_the_number_of_images_and_the_model(model, held_out):
    index = retrieval.InMemoryIndex(model)
    index.add(held_out[0][:3])
    assert repr(index) == "<InMemoryIndex: 3 images, model='clip_convnext_mini'>"
