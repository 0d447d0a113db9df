"""The contract of all indexes, and the cost of growth."""

import numpy as np
import pytest
from PIL import Image

from convnext_keras import WeightsError, clip, retrieval
from convnext_keras.retrieval.index import common_root

pytestmark = pytest.mark.any_backend
KINDS = ["memory", pytest.param("lance", marks=pytest.mark.integration)]


class FakeEncoder:
    """Vectors of images and texts without a network; counts what it encodes."""

    name, pretrained_info, embed_dim, streams = "fake", None, 8, 1

    def __init__(self):
        self.encoded = 0

    def fingerprint(self):
        return "f" * 64

    def iter_image_embeddings(self, items, batch_size, on_error, image, exif_transpose):
        items = [*items]
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            self.encoded += len(batch)
            rows = np.random.default_rng(start).normal(size=(len(batch), 8))
            yield batch, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


@pytest.fixture
def new_index(tmp_path, model):
    def make(kind):
        return (
            retrieval.InMemoryIndex(model)
            if kind == "memory"
            else retrieval.LanceIndex(tmp_path / "index.lance", model)
        )

    return make


@pytest.fixture(scope="module")
def model():
    return clip.create_model("convnext_mini.shapes")


@pytest.fixture
def photos(tmp_path, model):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", KINDS)
def test_directory_added_twice_is_stored_once(kind, new_index, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    index = new_index(kind)
    for form in ("photos", "photos/", "./photos", photos, photos / ".." / "photos"):
        assert index.add(form) == 4
        assert len(index) == 4
    assert {hit.name for hit in index.search("a star", 10)} == {str(path) for path in photos.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_image_replaces_its_vector(kind, new_index, photos, model):
    index = new_index(kind)
    index.add(photos)
    Image.new("RGB", (32, 32), "red").save(photos / "2.png")
    index.add(photos / "2.png")
    (best,) = index.search(photos / "2.png", top_k=1)
    assert best.name == str(photos / "2.png")
    assert best.cosine == pytest.approx(1, abs=1e-4)
    assert len(index) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [0, -1, 2.5, "3", None, True + 0.5])
def test_top_k_must_be_an_integer(kind, top_k, new_index, photos):
    index = new_index(kind)
    index.add(photos)
    with pytest.raises(ValueError, match="top_k must be a whole number"):
        index.search("a star", top_k)
    assert len(index.search("a star", np.int64(2))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_any_length_give_cosines(kind, new_index, photos, model):
    index = new_index(kind)
    index.add(photos)
    (vector,) = model.encode_text("a star")
    for scale in (1, 7.5, 1e-3):
        found = index.search_by_vector(scale * vector, 4)
        assert [hit.name for hit in found] == [hit.name for hit in index.search("a star", 4)]
        assert all(-1 <= hit.cosine <= 1 + 1e-5 for hit in found)
    for wrong in (np.zeros(96), np.full(96, np.nan), np.ones(3), np.ones((1, 96))):
        with pytest.raises(ValueError, match="96 finite numbers"):
            index.search_by_vector(wrong, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_names_in_one_call_raise(kind, new_index):
    index = new_index(kind)
    with pytest.raises(ValueError, match="Several images have the name 'a'"):
        index.add([np.zeros((8, 8, 3), "uint8")] * 2, names=["a", "a"])
    assert len(index) == 0


def test_replaced_images_are_saved_and_loaded(photos, model, tmp_path):
    index = retrieval.InMemoryIndex(model)
    index.add(photos)
    index.save(tmp_path / "index")
    Image.new("RGB", (32, 32), "red").save(photos / "2.png")
    index.add(photos / "2.png")
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # Nothing is new.
    assert len([*(tmp_path / "index").glob("*.safetensors")]) == 2
    loaded = retrieval.open_index(tmp_path / "index", model)
    assert loaded.names == index.names
    np.testing.assert_array_equal(loaded.vectors, index.vectors)


def test_a_moved_index_finds_its_images(photos, model, tmp_path):
    index = retrieval.InMemoryIndex(model)
    index.add(photos)
    index.save(tmp_path / "index")
    (tmp_path / "there").mkdir()
    for name in ("photos", "index"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    loaded = retrieval.open_index(tmp_path / "there" / "index", model)
    assert loaded.get_image_path(1) == tmp_path / "there" / "photos" / "1.png"
    (tmp_path / "there" / "photos").rename(tmp_path / "else")
    loaded = retrieval.open_index(tmp_path / "there" / "index", model, image_root=tmp_path / "else")
    assert loaded.get_image_path(3) == tmp_path / "else" / "3.png"


DAMAGES = [b"", b"\xff\xfe\x00", b"name\n", b"other\na\nb\nc\nd\n", b'name\n"a', b"name\na\n\x00\xff"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["0000.csv", "0000.safetensors"])
def test_damaged_files_are_named(file, damage, photos, model, tmp_path):
    index = retrieval.InMemoryIndex(model)
    index.add(photos)
    index.save(tmp_path / "index")
    (tmp_path / "index" / file).write_bytes(damage)
    with pytest.raises(WeightsError, match="0000"):
        retrieval.open_index(tmp_path / "index", model)


def test_adding_one_by_one_copies_each_vector_a_few_times(monkeypatch):
    """10,000 calls of `add` copy a linear number of rows, not a quadratic one."""
    index = retrieval.InMemoryIndex(FakeEncoder())
    moved = []
    zeros = np.zeros

    def counted(shape, *arguments, **options):
        moved.append(shape[0] if isinstance(shape, tuple) else 0)
        return zeros(shape, *arguments, **options)

    monkeypatch.setattr("convnext_keras.retrieval.memory_index.np.zeros", counted)
    for number in range(10_000):
        index.add([np.broadcast_to(np.uint8(0), (1, 1, 3))], names=[f"folder/{number}.png"])
    assert len(index) == 10_000
    assert sum(moved) < 8 * 10_000


def test_the_common_folder_of_100_000_images_is_found_once(monkeypatch):
    index = retrieval.InMemoryIndex(FakeEncoder())
    names = [f"/photos/{number % 100}/{number}.png" for number in range(100_000)]
    index.add(np.zeros((100_000, 1, 1, 3), "uint8"), names=names, batch_size=10_000)
    seen = []
    monkeypatch.setattr(
        "convnext_keras.retrieval.memory_index.common_root", lambda names: seen.append(len(names)) or "x"
    )
    for _ in range(100):
        assert index.folder == "x"
    assert seen == [100]
    assert common_root({"/photos/1", "/photos/22"}) == "/photos"
