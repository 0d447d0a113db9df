"""An index in LanceDB: the same answers as the exact one, changes, filters, readers, and what is refused."""

import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image

from convnext_keras import WeightsError, retrieval
from convnext_keras.retrieval import lance_index

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
SAME = 1e-5


@pytest.fixture
def index(model, held_out, tmp_path):
    """The first 20 held-out images, with the years 2000 to 2019."""
    images, captions = held_out
    index = retrieval.LanceIndex(tmp_path / "shapes.lance", model)
    names = [f"{number} {caption}" for number, caption in enumerate(captions[:20])]
    assert index.add(images[:20], names, columns={"year": [*range(2000, 2020)]}) == len(index) == 20
    return index


def unit_rows(vectors, names):
    """Record batches of made-up vectors."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.astype("float32").ravel()), vectors.shape[1])
    return [pyarrow.RecordBatch.from_pydict({"name": names, "vector": column})]


def clustered(rows, width, seed=0):
    """Vectors around a hundred centres, as those of images are: no two directions are alike for uniform ones."""
    random = np.random.default_rng(seed)
    return np.random.default_rng(0).normal(size=(100, width))[random.integers(100, size=rows)] + random.normal(
        0, 0.5, (rows, width)
    )


def test_results_equal_the_exact_index(model, held_out, index):
    exact = retrieval.InMemoryIndex(model)
    exact.add(held_out[0][:20], [f"{number} {caption}" for number, caption in enumerate(held_out[1][:20])])
    for query in ("a red circle", held_out[0][3]):
        expected, found = exact.search(query, 7), index.search(query, 7)
        assert [hit.name for hit in found] == [hit.name for hit in expected]
        np.testing.assert_allclose([hit.cosine for hit in found], [hit.cosine for hit in expected], atol=SAME)
    assert len(index.search("a red circle", 1000)) == 20
    assert index.get_name(index.search("a red circle", 1)[0].index) == exact.search("a red circle", 1)[0].name


def test_rows_are_filtered_replaced_and_deleted(held_out, index):
    images = held_out[0]
    years = [int(hit.name.split()[0]) + 2000 for hit in index.search("a circle", 20, where="year >= 2015")]
    assert sorted(years) == [*range(2015, 2020)]
    first = index.get_name(index.search(images[0], 1)[0].index)
    assert index.add([images[30]], [first], columns={"year": [1999]}) == 1
    assert len(index) == 20
    assert index.search(images[30], 1, where="year < 2000")[0].cosine == pytest.approx(1, abs=SAME)
    assert index.delete([first, "not there", "it's"]) == 1
    assert first not in [hit.name for hit in index.search("a circle", 100)]
    assert index.filter_new(["a new one", first, index.get_name(index.search("a", 1)[0].index)]) == ["a new one", first]


def test_reader_sees_new_versions(model, index):
    """Another process appends 10,000 rows as one version while this one searches."""
    reader = retrieval.open_index(index.path, model)
    before = len(reader)
    code = (
        "import sys, numpy as np, pyarrow; from convnext_keras import retrieval\n"
        "index = retrieval.open_index(sys.argv[1])\n"
        "vectors = np.random.default_rng(0).normal(size=(10_000, index.model.embed_dim)).astype('float32')\n"
        "vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)\n"
        "column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])\n"
        "names, years = [f'new {number}' for number in range(10_000)], [2030] * 10_000\n"
        "index.append([pyarrow.RecordBatch.from_pydict({'name': names, 'vector': column, 'year': years})])"
    )
    sizes = {before}
    with subprocess.Popen([sys.executable, "-c", code, index.path]) as writer:
        while writer.poll() is None:
            assert len(reader.search("a circle", 5)) == 5
            sizes.add(len(reader))
    assert writer.returncode == 0
    assert sizes <= {before, before + 10_000}  # whole or not at all
    assert len(reader) == before + 10_000
    random = np.random.default_rng(0).normal(size=(10_000, model.embed_dim)).astype("float32")
    hit = reader.search_by_vector(random[77] / np.linalg.norm(random[77]), 1, where="year = 2030")[0]
    assert hit.name == "new 77"
    assert hit.cosine == pytest.approx(1, abs=SAME)


def index_type(index):
    """Type of the index of the vectors, as LanceDB names it."""
    (kind,) = {entry.index_type for entry in index.table.list_indices()}
    return kind.lower()


@pytest.mark.parametrize("quantization", ["int8", "binary"])
def test_vector_index_reaches_its_recall(quantization, model, tmp_path, monkeypatch):
    monkeypatch.setattr(lance_index, "BUILD_THRESHOLD", 20_000)
    index, width = retrieval.LanceIndex(tmp_path / "many.lance", model, quantization), model.embed_dim
    vectors = clustered(20_000, width)
    index.append(unit_rows(vectors, [str(number) for number in range(20_000)]))
    index.maybe_build_index()
    assert index.num_unindexed() == 0
    more = clustered(1000, width, seed=1)
    index.append(unit_rows(more, [str(number) for number in range(20_000, 21_000)]))
    index.maybe_build_index()
    assert index.num_unindexed() == 1000  # Searched one by one until there are more.
    table = np.concatenate([vectors, more])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    queries = clustered(50, width, seed=2)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = [{int(hit.name) for hit in index.search_by_vector(query)} for query in queries]
    exact = [{*np.argsort(-(table @ query))[:10]} for query in queries]
    assert np.mean([len(a & b) / 10 for a, b in zip(found, exact, strict=True)]) >= 0.9
    built = index.build_vector_index(recall=1.0)
    assert built.rows == 21_000
    assert built.recall >= 0.99
    assert retrieval.LanceIndex(index.path, model).quantization == quantization  # kept for the next time
    assert index_type(index) == {"int8": "ivfsq", "binary": "ivfrq"}[quantization]
    other = {"int8": "binary", "binary": "int8"}[quantization]
    changed = retrieval.LanceIndex(index.path, model, other)
    changed.tune_nprobes(0.5)  # the index of the vectors is not built anew
    assert retrieval.LanceIndex(index.path, model).quantization == quantization
    changed.maybe_build_index()
    assert index_type(changed) == {"int8": "ivfsq", "binary": "ivfrq"}[other]
    assert retrieval.LanceIndex(index.path, model).quantization == other


def test_image_paths_outside_the_roots_are_rejected(model, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (20, 20), (number * 200, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    index = retrieval.LanceIndex(tmp_path / "photos.lance", model)
    index.add(tmp_path / "photos")
    place = index.search("red", 1)[0].index
    assert index.get_image_path(place).parent == (tmp_path / "photos").resolve()
    assert index.folder == str(tmp_path / "photos")
    with pytest.raises(ValueError, match="Name the folder"):
        retrieval.open_index(tmp_path / "photos.lance").get_image_path(place)
    opened = retrieval.open_index(tmp_path / "photos.lance", image_root=tmp_path / "photos")
    assert opened.get_image_path(place).is_file()
    with pytest.raises(ValueError, match="no image with the row number"):
        opened.get_image_path(77)


def test_lance_index_rejects_invalid_arguments(model, small_clip, held_out, index, tmp_path):
    with pytest.raises(ValueError, match=r"'month > 3' cannot be used: .*The columns are name, year"):
        index.search("a circle", where="month > 3")
    with pytest.raises(ValueError, match="cannot be used"):
        index.search("a circle", where="year >")
    with pytest.raises(WeightsError, match="made by another model"):
        retrieval.open_index(index.path, small_clip)
    with pytest.raises(WeightsError, match="holds no index"):
        retrieval.open_index(tmp_path / "none.lance")
    with pytest.raises(ValueError, match=r"must end in \.lance"):
        retrieval.LanceIndex(tmp_path / "none", model)
    with pytest.raises(ValueError, match="quantization must be 'int8' or 'binary'"):
        retrieval.LanceIndex(tmp_path / "none.lance", model, "int4")
    with pytest.raises(ValueError, match=r"has the columns \['name', 'year'\]"):
        index.add(held_out[0][:1], ["one"])
    with pytest.raises(ValueError, match="fewer values"):
        index.add(held_out[0][:2], ["one", "two"], columns={"year": [1]})
    with pytest.raises(ValueError, match="Several images have the name 'one'"):
        index.add(held_out[0][:2], ["one", "one"], columns={"year": [1, 2]})
    with pytest.raises(ValueError, match="1,000 images or more"):
        index.build_vector_index()
    exact = retrieval.InMemoryIndex(model)
    exact.add(held_out[0][:1])
    with pytest.raises(ValueError, match="where is of an index in Lance"):
        exact.search("a", where="year > 1")
    assert len(index) == 20
