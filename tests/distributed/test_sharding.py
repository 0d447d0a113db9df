"""Lists, tables, archives and addresses of images, as they are found in the wild; and jobs that grow."""

import http.server
import io
import tarfile
import threading

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from convnext_keras import distributed
from convnext_keras.distributed import sharding
from convnext_keras.distributed.sharding import make_shards, read_table

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
MODEL = "convnext_mini.shapes"


def png(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), "uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(output):
    return pyarrow.parquet.read_table(output).to_pylist()


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / "photos" / f"{number:03}.png").write_bytes(png(number))
    return tmp_path / "photos"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("heading", ["path", "filepath", "file_name", "filename", "image", "Image", "PATH", "key"])
def test_lists_of_paths_beside_the_images(delimiter, start, heading, photos, tmp_path):
    rows = [
        delimiter.join((heading, "id", "year")),
        *(delimiter.join((f"{n:03}.png", f"{n:03}", "2020")) for n in range(4)),
    ]
    (photos / "list.csv").write_text(start + "\n".join(rows) + "\n", encoding="utf-8")
    (shard,) = make_shards([str(photos / "list.csv")], 100)
    assert shard.names == tuple(str(photos / f"{number:03}.png") for number in range(4))
    assert shard.columns.column("id").to_pylist() == ["000", "001", "002", "003"]
    assert shard.columns.column("year").to_pylist() == [2020] * 4


def test_text_columns_stay_texts():
    table = read_table(
        b"name,zip,big,part,yes,empty\n007,01234,12345678901234567890,0.5,true,\n010,99999,2,1.5,false,\n"
    )
    assert table.column("name").to_pylist() == ["007", "010"]
    assert table.column("zip").to_pylist() == ["01234", "99999"]
    assert table.column("part").to_pylist() == [0.5, 1.5]
    assert table.column("yes").to_pylist() == [True, False]


def test_another_column_can_be_named(photos, tmp_path):
    (photos / "list.csv").write_text("where,text\n000.png,a cat\n001.png,a dog\n")
    with pytest.raises(ValueError, match="none of the columns path, .*but where, text"):
        distributed.embed(MODEL, photos / "list.csv", tmp_path / "vectors")
    assert distributed.embed(MODEL, photos / "list.csv", tmp_path / "vectors", column="where")[:2] == (2, 0)
    with pytest.raises(ValueError, match="has no column 'nowhere', but where, text"):
        distributed.embed(MODEL, photos / "list.csv", tmp_path / "others", column="nowhere")


STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
HELD = {
    "Hugging Face datasets": (
        "image",
        [{"bytes": png(0), "path": "a.png"}, {"bytes": png(1), "path": None}, None],
        STRUCT,
    ),
    "img2dataset": ("jpg", [png(0), png(1), None], pyarrow.binary()),
    "large binary": ("bytes", [png(0), png(1), None], pyarrow.large_binary()),
}


@pytest.mark.parametrize("kind", HELD)
def test_images_in_parquet_are_read(kind, tmp_path):
    column, values, arrow_type = HELD[kind]
    table = pyarrow.table({column: pyarrow.array(values, arrow_type), "caption": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    assert distributed.embed(MODEL, tmp_path / "list.parquet", tmp_path / "vectors")[:2] == (3, 1)
    rows = rows_of(tmp_path / "vectors")
    assert [row["caption"] for row in rows] == ["a", "b", "c"]
    assert len({row["key"] for row in rows}) == 3
    assert all(row["key"].startswith(str(tmp_path / "list.parquet") + "/") for row in rows)
    assert "no path and no bytes" in rows[2]["error"]


def test_rows_without_a_path_are_errors(photos, tmp_path):
    table = pyarrow.table({"path": [str(photos / "000.png"), None, ""]})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    assert distributed.embed(MODEL, tmp_path / "list.parquet", tmp_path / "vectors")[:2] == (3, 2)


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers `/STATUS/name.png` with the status, and an image if that is 200."""

    def do_GET(self):
        status = int(self.path.split("/")[1])
        if status == 999:  # never answers
            release.wait(60)
            return
        body = png() if status == 200 else b"no"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


release = threading.Event()


@pytest.fixture
def web():
    release.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        release.set()
        server.shutdown()
        thread.join()


def test_url_errors_contain_the_status(web, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "READ_SECONDS", 0.5)
    statuses = (200, 403, 404, 410, 429, 500, 999)
    lines = "\n".join(f"{web}/{status}/image.png?size=large" for status in statuses)
    (tmp_path / "list.csv").write_text("URL,TEXT\n" + "\n".join(f"{line},x" for line in lines.splitlines()) + "\n")
    assert distributed.embed(MODEL, tmp_path / "list.csv", tmp_path / "vectors")[:2] == (7, 6)
    errors = [row["error"] for row in rows_of(tmp_path / "vectors")]
    assert errors[0] is None
    for status, error in zip(statuses[1:-1], errors[1:-1], strict=True):
        assert f"answered with the status {status}" in error
    assert "could not be fetched: ReadTimeout" in errors[-1]


@pytest.mark.parametrize("output", ["vectors", "photos.lance"])
def test_new_images_become_new_shards(output, photos, tmp_path):
    run = lambda **options: distributed.embed(MODEL, photos, tmp_path / output, shard_size=2, **options)  # noqa: E731
    assert run()[:4] == (4, 0, 2, 0)
    (photos / "000a.png").write_bytes(png(9))  # between those that are there
    (photos / "999.png").write_bytes(png(10))
    assert run()[:3] == (2, 0, 1)
    assert run()[0] == 0
    if output == "vectors":
        keys = [row["key"] for row in rows_of(tmp_path / output)]
        assert sorted(keys) == sorted(str(path) for path in photos.glob("*.png"))


@pytest.mark.parametrize("output", ["vectors", "photos.lance"])
def test_errors_are_retried_if_asked(output, photos, tmp_path):
    whole = (photos / "001.png").read_bytes()
    (photos / "001.png").write_bytes(whole[:50])
    run = lambda **options: distributed.embed(MODEL, photos, tmp_path / output, shard_size=2, **options)  # noqa: E731
    assert run()[:4] == (4, 1, 2, 0)
    (photos / "001.png").write_bytes(whole)
    assert run()[:2] == (0, 0)
    assert run(retry_errors=True)[:4] == (2, 0, 1, 1)
    assert run(retry_errors=True)[:2] == (0, 0)
    if output == "vectors":
        assert [row["error"] for row in rows_of(tmp_path / output)] == [None] * 4


def test_every_spelling_of_a_directory_resumes(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distributed.embed(MODEL, "photos", tmp_path / "vectors")[0] == 4
    for form in (
        "photos/",
        "./photos",
        str(photos),
        photos / ".." / "photos",
        "photos//",
        ["photos/000.png", "photos/*.png"],
    ):
        assert distributed.embed(MODEL, form, tmp_path / "vectors")[0] == 0


def test_other_files_are_counted(photos, tmp_path):
    (photos / "raw.cr2").write_bytes(b"")
    (photos / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match="left out 1 files .*raw.cr2"):
        list(make_shards([str(photos)], 10))
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in ("raw.cr2", "notes.txt", "000.png"):
            archive.add(photos / name, name)
    (shard,) = make_shards([str(tmp_path / "photos.tar")], 10)
    with pytest.warns(UserWarning, match="left out 1 files .*raw.cr2"):
        keys = [item.key for item in shard.items()]
    assert keys == [f"{tmp_path}/photos.tar/000.png"]


def test_damaged_parts_are_named(photos, tmp_path):
    distributed.embed(MODEL, photos, tmp_path / "vectors")
    part = next((tmp_path / "vectors").glob("part-*"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{part.name} is damaged.*Delete it"):
        distributed.embed(MODEL, photos, tmp_path / "vectors", retry_errors=True)
    (tmp_path / "vectors" / "_job.json").write_text("{")
    with pytest.raises(ValueError, match="_job.json is damaged"):
        distributed.embed(MODEL, photos, tmp_path / "vectors")
