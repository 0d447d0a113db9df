"""Downloads, from a server on this machine."""

import datetime
import email.utils
import functools
import hashlib
import http.server
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading

import pytest
from waiting import wait_until

from convnext_keras import ConvNeXtTiny, WeightsError, create_model, list_weights
from convnext_keras.checkpoints import download, fetch_weights, load_registry, registry

pytestmark = pytest.mark.any_backend

CONTENT = b"some weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and can cut an answer short."""

    requests: list[str]
    faults: list[int | str] = []  # of the first requests below /faults/

    def fail(self, fault):
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        status, _, retry_after = str(fault).partition(":")
        self.send_response(int(status))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.endswith("cut.bin"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])
            return
        if "stall" in self.path:
            threading.Event().wait(2)  # Longer than the client's limit below.
            return
        if status := re.search(r"status-(\d+)", self.path):
            self.send_error(int(status[1]))
            return
        if self.path.startswith("/faults/") and len(self.requests) <= len(self.faults):
            self.fail(self.faults[len(self.requests) - 1])
            return
        self.path = self.path.removeprefix("/faults")
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "0")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file.bin").write_bytes(CONTENT)
    Handler.requests = []
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_fetched_once_and_found_again(server):
    path, sha256 = download.fetch(f"{server}/file.bin", SHA256.upper(), 1)
    assert sha256 == SHA256
    assert path == download.cache_dir() / "file.bin"
    assert path.read_bytes() == CONTENT
    assert download.fetch(f"{server}/file.bin", SHA256, 1).path == path
    assert Handler.requests == ["/file.bin"]


def test_corrupted_cache_files_are_downloaded_again(server):
    path = download.fetch(f"{server}/file.bin", SHA256, 1).path
    path.write_bytes(b"damaged")
    assert download.fetch(f"{server}/file.bin", SHA256, 1).path.read_bytes() == CONTENT


def test_a_shared_cache_stays_readable(server):
    mode = download.fetch(f"{server}/file.bin", SHA256, 1).path.stat().st_mode
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(mode) == 0o666 & ~umask


FAULTS = ["cut.bin", "missing.bin", "stall.bin", *(f"status-{status}.bin" for status in (403, 429, 500, 503))]


@pytest.mark.parametrize(("name", "sha256"), [("file.bin", "0" * 64), *((name, SHA256) for name in FAULTS)])
def test_failed_download_leaves_no_files(server, name, sha256, pauses, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(OSError, match=rf"{name} could not be downloaded.*{sha256}"):
        download.fetch(f"{server}/{name}", sha256, 1)
    assert not [path for path in download.cache_dir().rglob("*") if path.is_file()]


@pytest.mark.integration
def test_killed_download_is_repeated(server, tmp_path):
    code = "import sys; from convnext_keras import download; download.fetch(*sys.argv[1:3], 1)"
    command = [sys.executable, "-c", code, f"{server}/stall/file.bin", SHA256]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: Handler.requests or process.poll() is not None)
    process.kill()
    process.wait()
    assert download.fetch(f"{server}/file.bin", SHA256, 1).path.read_bytes() == CONTENT


def test_concurrent_downloads_return_the_same_file(server):
    found = []

    def fetch_one():
        found.append(download.fetch(f"{server}/file.bin", SHA256, 1).path.read_bytes())

    threads = [threading.Thread(target=fetch_one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 5


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, which take no time."""
    waited = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, "reset"])
def test_busy_servers_and_broken_connections_are_tried_again(fault, server, pauses, monkeypatch):
    monkeypatch.setattr(Handler, "faults", [fault, fault])
    assert download.fetch(f"{server}/faults/file.bin", SHA256, 1).path.read_bytes() == CONTENT
    assert len(Handler.requests) == 3
    assert pauses == list(download.RETRY_PAUSES[:2])


@pytest.mark.parametrize("status", [403, 404, 401, 410])
def test_client_errors_are_not_retried(status, server, pauses, monkeypatch):
    monkeypatch.setattr(Handler, "faults", [status])
    with pytest.raises(OSError, match=rf"could not be downloaded: {status}"):
        download.fetch(f"{server}/faults/file.bin", SHA256, 1)
    assert len(Handler.requests) == 1
    assert pauses == []


def test_retry_after_is_respected(server, pauses, monkeypatch):
    until = email.utils.format_datetime(
        datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20), usegmt=True
    )
    monkeypatch.setattr(Handler, "faults", ["503:7", f"429:{until}", f"503:{until[:-3]}-0000", "503:never"])
    assert download.fetch(f"{server}/faults/file.bin", SHA256, 1).path.read_bytes() == CONTENT
    assert pauses[0] == 7
    assert all(0 < pause <= 20 for pause in pauses[1:3])
    assert pauses[3:] == [download.RETRY_PAUSES[3]]


@pytest.mark.parametrize("faults", [[503] * 20, ["503:3600"]])
def test_retries_are_limited(faults, server, pauses, monkeypatch):
    monkeypatch.setattr(Handler, "faults", faults)
    with pytest.raises(OSError, match="could not be downloaded: 503"):
        download.fetch(f"{server}/faults/file.bin", SHA256, 1)
    assert sum(pauses) <= download.RETRY_SECONDS
    assert len(Handler.requests) == len(pauses) + 1 <= len(download.RETRY_PAUSES) + 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_full_disk_leaves_no_files(server):
    """Files may not grow beyond 5,000 bytes, which ends a write as a full disk does."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
        with pytest.raises(OSError, match=r"file\.bin could not be downloaded"):
            download.fetch(f"{server}/file.bin", SHA256, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in download.cache_dir().rglob("*") if path.is_file()]
    assert download.fetch(f"{server}/file.bin", SHA256, 1).path.read_bytes() == CONTENT


def test_cache_without_write_permission_raises(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CONVNEXT_KERAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file\.bin could not be downloaded"):
        download.fetch(f"{server}/file.bin", SHA256, 1)


def test_mirror_replaces_the_host(server, monkeypatch):
    monkeypatch.setenv("CONVNEXT_KERAS_MIRROR", f"{server}/")
    assert download.fetch("https://nowhere.invalid/far/file.bin", SHA256, 1).path.read_bytes() == CONTENT


def test_unreachable_server_raises(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="could not be downloaded.*put the file there by hand"):
        download.fetch(f"http://127.0.0.1:{port}/file.bin", SHA256, 1)


def test_standard_output_stays_empty(server, capfd):
    download.fetch(f"{server}/file.bin", SHA256, 1)
    assert capfd.readouterr().out == ""


def test_offline_error_lists_the_files(no_network):
    row = load_registry()["convnext_tiny.imagenet"]
    with pytest.raises(WeightsError) as raised:
        ConvNeXtTiny()
    for fact in (row.url, row.sha256, str(download.cache_dir() / row.file), "114 MB", "CONVNEXT_KERAS_OFFLINE"):
        assert fact in str(raised.value)


def test_offline_finds_cached_files(no_network):
    download.cache_dir().mkdir(exist_ok=True)
    (download.cache_dir() / "file.bin").write_bytes(CONTENT)
    assert download.fetch("https://nowhere.invalid/file.bin", SHA256, 1).path.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_damaged_bundled_file_is_refused(fault, monkeypatch, tmp_path):
    row = load_registry()["convnext_mini.digits"]
    content = bytearray((registry.BUNDLED_WEIGHTS_DIR / row.file).read_bytes())
    content[-1] ^= 1
    monkeypatch.setattr(registry, "BUNDLED_WEIGHTS_DIR", tmp_path)
    if fault == "damaged":
        (tmp_path / row.file).write_bytes(content)
    with pytest.raises(WeightsError, match="is missing or differs from the registry's sha256"):
        fetch_weights(row)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_mini.digits"])
def test_a_file_is_hashed_once(name, monkeypatch, tmp_path):
    """XLarge's has 1.4 GB."""
    hashed = []
    real = download.file_sha256
    monkeypatch.setattr(download, "file_sha256", lambda path: hashed.append(path) or real(path))
    if name == "convnext_tiny":
        monkeypatch.setenv("CONVNEXT_KERAS_CACHE", str(tmp_path))
        keras_tiny = tmp_path / "convnext_tiny.h5"
        keras_tiny.write_bytes(b"no weights")
        row = load_registry()["convnext_tiny.imagenet"]._replace(sha256=real(keras_tiny))
        assert fetch_weights(row).sha256 == row.sha256
    else:
        create_model(name)
    assert len(hashed) == 1


def test_bundled_checkpoints_need_no_network(no_network):
    assert create_model("convnext_mini.digits").pretrained_info.sha256 == load_registry()["convnext_mini.digits"].sha256


def test_a_damaged_file_is_refused_before_it_is_opened(monkeypatch, no_network):
    """An HDF5 file of the right name and the wrong content never reaches the HDF5 library."""
    monkeypatch.setattr("convnext_keras.checkpoints.formats.h5py", None)
    path = download.cache_dir() / "convnext_tiny.h5"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x89HDF\r\n\x1a\n and nothing good")
    with pytest.raises(WeightsError, match="not in the cache"):
        ConvNeXtTiny(weights="imagenet")


def test_headless_models_take_the_headless_file(monkeypatch):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda url, *rest: asked.append(url))
    row = load_registry()["convnext_base.imagenet"]
    fetch_weights(row, include_top=False)
    fetch_weights(row, include_top=True)
    assert asked == [row.notop_url, row.url]


def test_unknown_names():
    assert list_weights("convnext_mini*") == ["convnext_mini.digits"]
    with pytest.raises(ValueError, match=r"Did you mean 'convnext_mini\.digits'"):
        create_model("convnext_mini.digit")


@pytest.mark.parametrize("name", ["encoder", "convnext_large", "convnext_tiny_encoder"])
def test_the_name_of_a_model_never_decides_the_file(name, monkeypatch):
    asked = []

    def refuse(url, sha256, size_mb):
        asked.append((url, sha256))
        raise OSError("not now")

    monkeypatch.setattr(download, "fetch", refuse)
    with pytest.raises(WeightsError, match="not now"):
        ConvNeXtTiny(name=name)
    row = load_registry()["convnext_tiny.imagenet"]
    assert asked == [(row.url, row.sha256)]
