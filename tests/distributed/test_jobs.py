"""Jobs: the same rows whoever does them, broken images, runs that stop and go on, and what is refused."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from waiting import TIMEOUT

from convnext_keras import clip, distributed, retrieval, samples
from convnext_keras.data.class_names import load_class_names
from convnext_keras.distributed import ray_cluster, sharding

pytestmark = pytest.mark.integration

SAME = 1e-5
MODEL = "convnext_mini.shapes"


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(held_out, tmp_path):
    """Four archives of 12 held-out images each, with their captions beside them, as img2dataset writes them."""
    (tmp_path / "shards").mkdir()
    for number in range(4):
        rows = range(12 * number, 12 * number + 12)
        members = {f"{row:05}.png": png(np.asarray(held_out[0][row])) for row in rows}
        captions = {f"{row:05}.txt": held_out[1][row].encode() for row in rows}
        archive(tmp_path / "shards" / f"{number:05}.tar", dict(sorted({**members, **captions}.items())))
    return str(tmp_path / "shards" / "*.tar")


def rows_of(output):
    return pyarrow.parquet.read_table(output)


def vectors_of(table):
    return np.array(table.column("vector").to_pylist())


@pytest.mark.any_backend
def test_embed_rows_equal_the_model(held_out, shards, tmp_path):
    summary = distributed.embed(MODEL, shards, tmp_path / "vectors", batch_size=5)
    assert summary[:4] == (48, 0, 4, 0)
    rows = rows_of(tmp_path / "vectors")
    np.testing.assert_allclose(vectors_of(rows), clip.create_model(MODEL).encode_image(held_out[0]), atol=SAME)
    assert rows.column("key")[13].as_py().endswith("00001.tar/00013.png")
    assert rows.column("error").null_count == 48


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_embed_writes_other_types_of_vectors(dtype, held_out, shards, tmp_path):
    distributed.embed(MODEL, shards, tmp_path / "vectors", dtype=dtype)
    expected = retrieval.quantize(clip.create_model(MODEL).encode_image(held_out[0]), dtype)
    vectors = vectors_of(rows_of(tmp_path / "vectors"))
    assert vectors.shape == expected.shape
    if dtype.endswith("binary"):  # bytes of bits; those of values near 0 may differ
        assert np.mean(vectors == expected) > 0.99
    else:
        np.testing.assert_allclose(vectors, expected, atol=1e-3 if dtype == "float16" else 1)


@pytest.mark.any_backend
def test_a_table_of_lance_keeps_floats_beside_its_bits(held_out, shards, tmp_path):
    distributed.embed(MODEL, shards, tmp_path / "bits.lance", dtype="binary")
    index = retrieval.LanceIndex.load(tmp_path / "bits.lance", clip.create_model(MODEL))
    hit = index.search_by_vector(clip.create_model(MODEL).encode_image(held_out[0][:1])[0], 1)[0]
    assert hit.cosine == pytest.approx(1, abs=SAME)
    with pytest.raises(ValueError, match="'int8' or 'binary' for this output"):
        distributed.embed(MODEL, shards, tmp_path / "unsigned.lance", dtype="ubinary")


@pytest.mark.any_backend
def test_classify_and_zero_shot_rows_equal_the_models(held_out, tmp_path):
    digits, labels = samples.load_digits()
    (tmp_path / "digits").mkdir()
    for number in range(6):
        Image.fromarray(digits[number * 50]).save(tmp_path / "digits" / f"{number}.png")
    distributed.classify("convnext_mini.digits", tmp_path / "digits", tmp_path / "classes", top_k=2)
    rows = rows_of(tmp_path / "classes").to_pylist()
    names = [row["labels"][0] for row in rows]
    assert names == [load_class_names("digits")[labels[number * 50]][1] for number in range(6)]
    assert all(row["scores"][0] > row["scores"][1] for row in rows)
    (tmp_path / "shapes").mkdir()
    for number in range(6):
        (tmp_path / "shapes" / f"{number}.png").write_bytes(png(np.asarray(held_out[0][number])))
    words = sorted({*held_out[1][:6]})
    distributed.zero_shot(MODEL, words, tmp_path / "shapes", tmp_path / "labels", templates="{}", top_k=1)
    rows = rows_of(tmp_path / "labels").to_pylist()
    expected = clip.ZeroShotClassifier(clip.create_model(MODEL), words, "{}").predict(held_out[0][:6], top_k=1)
    for row, (best,) in zip(rows, expected, strict=True):
        assert row["labels"] == [best.label]
        assert row["cosines"] == [pytest.approx(best.cosine, abs=SAME)]
        assert row["scores"] == [pytest.approx(best.probability, abs=1e-3)]


@pytest.mark.any_backend
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_keep_their_columns(held_out, tmp_path, suffix):
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        (tmp_path / f"{number}.png").write_bytes(png(np.asarray(held_out[0][number])))
    table = pyarrow.table({"year": [*range(2000, 2005)], "url": [f"file://{path}" for path in paths]})
    write = pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table
    write(table, tmp_path / f"list{suffix}")
    distributed.embed(MODEL, tmp_path / f"list{suffix}", tmp_path / "vectors", shard_size=2)
    rows = rows_of(tmp_path / "vectors")
    assert rows.column("year").to_pylist() == [*range(2000, 2005)]
    assert rows.column("key").to_pylist() == table.column("url").to_pylist()
    assert len([*(tmp_path / "vectors").glob("part-*.parquet")]) == 3
    distributed.embed(MODEL, tmp_path / f"list{suffix}", tmp_path / "photos.lance", shard_size=2)
    index = retrieval.open_index(tmp_path / "photos.lance")
    assert index.search(held_out[0][3], 1, where="year > 2002")[0].name.endswith("3.png")


@pytest.mark.any_backend
def test_broken_images_are_rows_with_an_error(held_out, shards, tmp_path):
    folder = tmp_path / "shards"
    images = [png(np.asarray(image)) for image in held_out[0][:12]]
    archive(folder / "00001.tar", {"0.png": images[0], "1.png": b"not an image", "2.jpg": images[2]})
    archive(folder / "00002.tar", {"only.txt": b"no image"})
    whole = (folder / "00003.tar").read_bytes()
    (folder / "00003.tar").write_bytes(whole[: len(whole) // 2])
    for output in ("vectors", "photos.lance"):
        summary = distributed.embed(MODEL, shards, tmp_path / output)
        assert summary.errors == 3
    rows = rows_of(tmp_path / "vectors").to_pylist()
    errors = {row["key"].split("/")[-1]: row["error"] for row in rows if row["error"]}
    assert "1.png cannot be read" in errors["1.png"]
    assert errors["00002.tar"].endswith("the archive has no images.")
    assert "ends early or is broken, after" in errors["00003.tar"]
    assert [row["vector"] is None for row in rows] == [row["error"] is not None for row in rows]
    index = retrieval.open_index(tmp_path / "photos.lance")
    assert len(index) == len(rows)
    assert len(index.search("a circle", 1000)) == len(rows) - 3


@pytest.mark.any_backend
@pytest.mark.parametrize("output", ["vectors", "photos.lance"])
def test_embed_resumes_after_a_kill(shards, tmp_path, output):
    """The process is killed by its number, between two shards."""
    code = (
        "import sys; from convnext_keras import distributed; from convnext_keras.distributed import outputs\n"
        "kind = outputs.LanceOutput if sys.argv[2].endswith('.lance') else outputs.ParquetOutput\n"
        "write = kind.write\n"
        "def slow(self, shard, table):\n"
        "    write(self, shard, table)\n"
        "    print(shard.number, flush=True)\n"
        "    shard.number == 1 and sys.stdin.read()\n"
        "kind.write = slow\n"
        f"distributed.embed('{MODEL}', sys.argv[1], sys.argv[2])"
    )
    arguments = [sys.executable, "-c", code, shards, str(tmp_path / output)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "0\n"
        assert process.stdout.readline() == "1\n"
        with pytest.raises(ValueError, match="Another run writes"):
            distributed.embed(MODEL, shards, tmp_path / output)
        os.kill(process.pid, signal.SIGKILL)
    assert distributed.embed(MODEL, shards, tmp_path / output)[:4] == (24, 0, 2, 2)
    assert distributed.embed(MODEL, shards, tmp_path / output)[:4] == (0, 0, 0, 4)
    if output == "vectors":
        keys = rows_of(tmp_path / output).column("key").to_pylist()
    else:
        keys = [name for batch in retrieval.open_index(tmp_path / output)._names() for name in batch]
    assert len(keys) == len({*keys}) == 48


@pytest.mark.any_backend
def test_embed_rejects_invalid_arguments(shards, tmp_path, monkeypatch):
    distributed.embed(MODEL, shards, tmp_path / "vectors")
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "vectors").glob("[_p]*"))
    for message, arguments in {
        "was begun with dtype 'float32'": {"dtype": "float16"},
        "dtype must be": {"dtype": "int4"},
        "no such file": {"inputs": str(tmp_path / "nowhere")},
        "cluster must be": {"cluster": "spark"},
        "address and devices are of a cluster": {"address": "auto"},
        "batch_size must be 1": {"batch_size": 0},
        "takes a ConvNeXt-CLIP": {"weights": "convnext_mini.digits"},
        "is a folder, or ends in": {"output": tmp_path / "vectors.npy"},
        "holds other files": {"output": tmp_path / "shards"},
    }.items():
        given = {"weights": MODEL, "inputs": shards, "output": tmp_path / "vectors", **arguments}
        with pytest.raises(ValueError, match=message):
            distributed.embed(**given)
    (tmp_path / "list.csv").write_text(f"path\n{tmp_path}/a.png\n{tmp_path}/a.png\n")
    for _ in range(2):  # Rows of one name stay two, and are not done again.
        distributed.embed(MODEL, tmp_path / "list.csv", tmp_path / "twice.lance", shard_size=1)
    assert len(retrieval.open_index(tmp_path / "twice.lance")) == 2
    with pytest.raises(ValueError, match="was begun with dtype 'float32'"):
        distributed.embed(MODEL, tmp_path / "list.csv", tmp_path / "twice.lance", dtype="float16", shard_size=1)
    with pytest.raises(ValueError, match="for vectors"):
        distributed.classify("convnext_mini.digits", shards, tmp_path / "classes.lance")
    (tmp_path / "list.csv").write_text("year\n2000\n")
    with pytest.raises(ValueError, match="none of the columns"):
        distributed.embed(MODEL, tmp_path / "list.csv", tmp_path / "other")
    with pytest.raises(ConnectionError, match="no cluster of Ray at 127.0.0.1:1"):
        distributed.embed(MODEL, shards, tmp_path / "other", cluster="ray", address="127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"convnext-keras\[parquet\]"):
        distributed.embed(MODEL, shards, tmp_path / "other")
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "vectors").glob("[_p]*")) == before
    assert json.loads((tmp_path / "vectors" / "_job.json").read_text())["kind"] == "embed"


@pytest.mark.any_backend
def test_shards_are_the_same_at_every_run(shards, held_out, tmp_path):
    mixed = [shards, str(tmp_path / "photos")]
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(np.asarray(held_out[0][number])))
    first, second = ([*sharding.make_shards(mixed, 2)] for _ in range(2))
    assert first == second
    assert [len(shard.names) for shard in first] == [1, 1, 1, 1, 2, 2, 1]
    assert len({shard.digest for shard in first}) == 7
    with pytest.raises(ValueError, match="The cluster has 2 of cpu"):
        ray_cluster.plan_workers("cpu:3", {"CPU": 2.0})
    with pytest.raises(ValueError, match="devices must be"):
        ray_cluster.plan_workers("tpu", {"CPU": 2.0})


@pytest.mark.any_backend
@pytest.mark.cluster
def test_a_cluster_gives_the_same_bytes_also_when_actors_die(cluster, shards, tmp_path):
    """Two actors on this machine, one of which is killed by its number in the middle."""
    distributed.embed(MODEL, shards, tmp_path / "here")
    code = (
        "import os, signal, sys\n"
        "from convnext_keras import distributed\n"
        "from convnext_keras.distributed.ray_cluster import ActorPool\n"
        "do = ActorPool.map\n"
        "def killing(self, shards, folder):\n"
        "    for number, done in enumerate(do(self, shards, folder)):\n"
        "        if number == 0:\n"
        "            os.kill(self.card['process'], signal.SIGKILL)\n"
        "        yield done\n"
        "ActorPool.map = killing\n"
        "inputs, output, address = sys.argv[1:]\n"
        f"summary = distributed.embed('{MODEL}', inputs, output, cluster='ray', address=address, devices='cpu:2')\n"
        "print(*summary[:4])"
    )
    arguments = [sys.executable, "-c", code, shards, str(tmp_path / "there"), cluster.address]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert printed.stdout.splitlines()[-1:] == ["48 0 4 0"], printed.stderr[-2000:]
    assert rows_of(tmp_path / "here").equals(rows_of(tmp_path / "there"))
