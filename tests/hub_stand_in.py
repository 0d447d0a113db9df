"""The Hugging Face hub, played by a server on this machine. A plugin of pytest."""

import hashlib
import http.server
import re
import threading

import pytest
from huggingface_hub import constants
from make_references import REFERENCES

CONTENT = (REFERENCES / "timm_plain.safetensors").read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
REPOSITORY, FILE = "timm/convnext_tiny.in12k_ft_in1k", "model.safetensors"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for some files; `fault` says what goes wrong."""

    fault: str | int = ""
    files = {f"{REPOSITORY}/{FILE}": CONTENT}
    missing_entries = False
    requests: list[str]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        type(self).requests.append(f"{self.command} {self.path}")
        place = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", self.path)
        content = self.files.get(f"{place[1]}/{place[3]}") if place and place[2] in COMMITS else None
        status = self.fault if isinstance(self.fault, int) else 404 if content is None else 200
        self.send_response(status)
        if status != 200:
            if self.missing_entries:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("X-Repo-Commit", COMMITS[place[2]])
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.fault == "stall":
            threading.Event().wait(3)  # Longer than the client's limit below.
        elif body:
            sent = {"cut": content[: len(content) // 2], "wrong": content[::-1]}.get(self.fault, content)
            self.wfile.write(sent)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """The stand-in, running; gives the folder of the client's cache."""
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "0")
    monkeypatch.setattr(Hub, "fault", "")
    Hub.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield tmp_path / "hub"
        running.shutdown()
        thread.join()
