"""A file of the registry to a verified local file; pooch does the transfer.

Environment variables: `CONVNEXT_KERAS_CACHE`, the folder that downloads go to; `CONVNEXT_KERAS_MIRROR`, an address that
holds the same file names; `CONVNEXT_KERAS_OFFLINE`, which forbids the network when it is 1.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pooch

TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Where downloads go: `CONVNEXT_KERAS_CACHE`, or the user's cache folder of the operating system."""
    return Path(os.environ.get("CONVNEXT_KERAS_CACHE") or pooch.os_cache("convnext_keras")).expanduser()


def is_offline() -> bool:
    """Whether `CONVNEXT_KERAS_OFFLINE` forbids the network."""
    return os.environ.get("CONVNEXT_KERAS_OFFLINE", "0").strip().lower() not in ("", "0", "false", "no")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, 64 lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(url: str, sha256: str, megabytes: float) -> Path:
    """The local copy of a file on the web, downloaded if it is missing or damaged.

    The transfer goes to a temporary file beside the target, is compared with the sha256 and then renamed, so that no
    one ever sees half a file.

    Args:
        url: address of the file; `CONVNEXT_KERAS_MIRROR` replaces all of it but the name.
        sha256: 64 hexadecimal digits.
        megabytes: about how large it is; told to the user when it cannot be fetched.

    Returns:
        Its path in `cache_folder()`.

    Raises:
        OSError: if it cannot be fetched, or what arrives has another sha256; the message names the remedy.
    """
    name = url.rsplit("/", 1)[-1]
    path = cache_folder() / name
    sha256 = sha256.lower()
    if path.is_file() and file_sha256(path) == sha256:
        return path
    if mirror := os.environ.get("CONVNEXT_KERAS_MIRROR"):
        url = f"{mirror.rstrip('/')}/{name}"
    by_hand = f"Or put the file there by hand: {url} as {path} (about {megabytes:.0f} MB, sha256 {sha256})."
    if is_offline():
        raise OSError(f"{name} is not in the cache and CONVNEXT_KERAS_OFFLINE forbids to fetch it. Unset it. {by_hand}")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_SECONDS)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:  # pooch raises ValueError over a wrong hash, requests OSError
        raise OSError(f"{name} could not be downloaded: {error} Try again. {by_hand}") from error
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)  # A temporary file is its owner's alone; a cache may be shared.
    return path


def fetch_from_hub(repository: str, files: Sequence[str], revision: str = "") -> Path:
    """The local copy of a file of the Hugging Face hub, in the hub's own cache and under its settings (`HF_HOME`, ...).

    The hub names files in its cache by the sha256 that it states for them; what lies there is compared with its name.

    Args:
        repository: `owner/name`.
        files: paths in the repository that it may have, in order of preference.
        revision: branch, tag or commit; empty for the main branch.

    Raises:
        OSError: if none can be fetched, or it is damaged and cannot be fetched anew.
    """
    import huggingface_hub

    def download(file: str, **options) -> Path:
        source = {"repo_id": repository, "filename": file, "revision": revision or None}
        return Path(huggingface_hub.hf_hub_download(**source, local_files_only=is_offline(), **options))

    *others, last = files
    path = None
    try:
        for file in others:
            with contextlib.suppress(huggingface_hub.errors.EntryNotFoundError):
                path = download(file)
                break
        path = path or download(last)
        if _is_damaged(path):
            path = download(path.name, force_download=True)
    except Exception as error:  # The errors of whatever HTTP library the hub's own library uses.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"{' or '.join(files)} of https://huggingface.co/{repository} could not be had: {reason} If the repository "
            "is gated, accept its terms there and set HF_TOKEN; with CONVNEXT_KERAS_OFFLINE or HF_HUB_OFFLINE set, it "
            "must be in the hub's cache already; if it holds a .bin or .pth file only, convert that once by "
            "scripts/convert_checkpoint.py."
        ) from error
    if _is_damaged(path):
        raise OSError(f"{path}: its sha256 is not the one that the hub states. Remove it and try again.")
    return path


def _is_damaged(path: Path) -> bool:
    stated = path.resolve().name
    return bool(re.fullmatch(r"[0-9a-f]{64}", stated)) and file_sha256(path) != stated
