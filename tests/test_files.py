"""Atomic writing: modes as the process has them, and nothing left after an error."""

import os

import pytest

from convnext_keras import create_model, save_pretrained, save_weights
from convnext_keras.files import atomic_path

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_follow_the_umask_which_is_never_changed(mask, file_mode, folder_mode, tmp_path, monkeypatch):
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda value: pytest.fail("the umask is of the whole process"))
            model = create_model("convnext_mini.digits")
            save_weights(model, tmp_path / "weights.safetensors")
            save_pretrained(model, tmp_path / "folder", "keras")
    finally:
        os.umask(before)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder" / "model.safetensors").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder_mode


def test_nothing_is_left_after_an_error(tmp_path):
    (tmp_path / "kept.txt").write_text("before")

    def interrupted():
        with atomic_path(tmp_path / "kept.txt") as partial:
            partial.write_text("after")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert (tmp_path / "kept.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
