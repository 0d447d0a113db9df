"""The Hugging Face hub, played by a server on this machine. A plugin of pytest."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import pytest
from huggingface_hub import constants
from make_references import REFERENCES

CONTENT = (REFERENCES / "timm_plain.safetensors").read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMITS = {"main": "a" * 40, "v2": "b" * 40, "refs/pr/1": "c" * 40}
CLIENT_REQUEST = "/api/agent-harnesses"  # Of the client itself, once a day, whatever is fetched.
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
        if self.path != CLIENT_REQUEST:
            type(self).requests.append(f"{self.command} {self.path}")
        path = urllib.parse.unquote(self.path)
        place = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(refs/pr/\d+|\w+)/(.+)", path)
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
            threading.Event().wait(3)  # Longer than the limit of the client that the test sets.
        elif body:
            sent = {"cut": content[: len(content) // 2], "wrong": content[::-1]}.get(self.fault, content)
            self.wfile.write(sent)

    def do_POST(self):
        """Answers the requests of an upload; the files of a commit are published together."""
        body = self.body()
        type(self).requests.append(f"POST {self.path}")
        kind = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            request = json.loads(body)
            self.reply({"url": f"{constants.ENDPOINT}/{request['organization']}/{request['name']}"})
        elif "preupload" in kind:
            files = [{"path": row["path"], "uploadMode": "regular"} for row in json.loads(body)["files"]]
            self.reply({"files": [{**row, "shouldIgnore": False, "oid": None} for row in files]})
        elif "commit" in kind:
            repository = "/".join(kind[2:4])
            rows = [json.loads(line) for line in body.splitlines()]
            files = {row["value"]["path"]: row["value"]["content"] for row in rows if row["key"] == "file"}
            self.files.update({f"{repository}/{name}": base64.b64decode(content) for name, content in files.items()})
            address = f"{constants.ENDPOINT}/{repository}/commit/{COMMITS['main']}"
            self.reply({"commitUrl": address, "commitOid": COMMITS["main"], "success": True})
        else:  # The check of a card's head.
            self.reply({"errors": [], "warnings": []})

    def body(self):
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """Starts the local hub; returns the cache folder of the client."""
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "0")
    monkeypatch.setattr(Hub, "fault", "")
    Hub.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield tmp_path / "hub"
        running.shutdown()
        thread.join()
