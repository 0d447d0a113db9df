"""Command-line options of a running server."""

import re

import pytest
from serving import MODEL

from convnext_keras import server

pytestmark = pytest.mark.any_backend


def never_called(*arguments, **options):
    raise AssertionError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_public_host_requires_api_keys(host, monkeypatch):
    monkeypatch.delenv("CONVNEXT_KERAS_API_KEYS", raising=False)
    monkeypatch.setattr("convnext_keras.server.main.create_app", never_called)
    with pytest.raises(ValueError, match=f"Received: host={host!r}"):
        server.serve(MODEL, host=host)


@pytest.mark.parametrize("index", ["folder", "=folder", "a=", "a/b=c"])
def test_index_option_requires_a_name(index, monkeypatch):
    monkeypatch.setattr("convnext_keras.server.main.create_app", never_called)
    with pytest.raises(ValueError, match=re.escape(repr(index))):
        server.serve(MODEL, indexes=[index])
    with pytest.raises(ValueError, match=f"--image-dir must be NAME=FOLDER.*{re.escape(repr(index))}"):
        server.serve(MODEL, image_roots=[index])


def test_image_dir_requires_a_known_index(model):
    with pytest.raises(ValueError, match=r"one of the indexes \[\]. Received: 'photos'"):
        server.create_app(model, image_roots={"photos": "."})
