"""Download and verification of files from the web (by pooch) and from the Hugging Face Hub (by its library).

Environment variables: `CONVNEXT_KERAS_CACHE`, the folder that downloads go to; `CONVNEXT_KERAS_MIRROR`, an address that
holds the same file names; `CONVNEXT_KERAS_OFFLINE`, which forbids the network when it is 1.
"""

import contextlib
import datetime
import email.utils
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
import urllib3

TIMEOUT_SECONDS = 30  # without a byte
RETRY_PAUSES = (1, 2, 4, 8, 16)  # seconds before each new try, or as long as the server asks for
RETRY_SECONDS = 60  # after which nothing is tried again
RETRIED_STATUSES = (429, 500, 502, 503, 504)


class VerifiedFile(NamedTuple):
    """A local file and the sha256 of its content, 64 lower-case hexadecimal digits."""

    path: Path
    sha256: str


def cache_dir() -> Path:
    """Returns the download directory: `CONVNEXT_KERAS_CACHE`, or the user's cache directory of the operating system."""
    return Path(os.environ.get("CONVNEXT_KERAS_CACHE") or pooch.os_cache("convnext_keras")).expanduser()


def is_offline() -> bool:
    """Returns whether `CONVNEXT_KERAS_OFFLINE` forbids the network."""
    return os.environ.get("CONVNEXT_KERAS_OFFLINE", "0").strip().lower() not in ("", "0", "false", "no")


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file, 64 lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(url: str, sha256: str, size_mb: float) -> VerifiedFile:
    """Returns the local copy of a file on the web, downloaded if it is missing or damaged.

    The file is downloaded to a temporary file, compared with the SHA-256, and renamed. Busy servers and broken
    connections are retried for `RETRY_SECONDS`.

    Args:
        url: Address of the file; `CONVNEXT_KERAS_MIRROR` replaces all of it but the name.
        sha256: 64 hexadecimal digits.
        size_mb: Approximate size, for the error message of a failed download.

    Returns:
        The file in `cache_dir()`.

    Raises:
        OSError: If it cannot be fetched, or what arrives has another sha256; the message names the remedy.
    """
    name = url.rsplit("/", 1)[-1]
    path = cache_dir() / name
    sha256 = sha256.lower()
    if path.is_file() and file_sha256(path) == sha256:
        return VerifiedFile(path, sha256)
    if mirror := os.environ.get("CONVNEXT_KERAS_MIRROR"):
        url = f"{mirror.rstrip('/')}/{name}"
    by_hand = f"Or put the file there by hand: {url} as {path} (about {size_mb:.0f} MB, sha256 {sha256})."
    if is_offline():
        raise OSError(f"{name} is not in the cache and CONVNEXT_KERAS_OFFLINE forbids to fetch it. Unset it. {by_hand}")
    try:
        _retrieve(url, path, sha256)
    except (OSError, ValueError) as error:  # pooch raises ValueError over a wrong hash, requests OSError
        raise OSError(f"{name} could not be downloaded: {error} Try again. {by_hand}") from error
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # of which a file shows the usual permissions
        probe = Path(folder) / "probe"
        probe.touch()
        path.chmod(probe.stat().st_mode)  # A temporary file is its owner's alone; a cache may be shared.
    return VerifiedFile(path, sha256)


def _retrieve(url: str, path: Path, sha256: str) -> None:
    """Downloads a file, again and again while its server is busy or breaks the connection."""
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_SECONDS)
    deadline = time.monotonic() + RETRY_SECONDS
    for pause in (*RETRY_PAUSES, None):
        try:
            pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=downloader)  # pyright: ignore[reportArgumentType] - as pooch documents it
            return
        except requests.RequestException as error:
            if pause is None or not _is_retryable(error):
                raise
            pause = max(pause, _retry_after_seconds(error))
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)


def _is_retryable(error: requests.RequestException) -> bool:
    """Returns whether a new try may succeed: a busy or failing server, or a connection that broke once it was there."""
    if error.response is not None:
        return error.response.status_code in RETRIED_STATUSES
    broken = isinstance(error, requests.ConnectionError) and isinstance(
        next(iter(error.args), None), urllib3.exceptions.ProtocolError
    )
    return broken or isinstance(error, requests.exceptions.ChunkedEncodingError)


def _retry_after_seconds(error: requests.RequestException) -> float:
    """Seconds that the header Retry-After asks for, as a number or a date; 0 if there is none."""
    value = "" if error.response is None else error.response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if until.tzinfo is None:  # The zone "-0000" says that the time is UTC and nothing of where the server is.
        until = until.replace(tzinfo=datetime.UTC)
    return (until - datetime.datetime.now(datetime.UTC)).total_seconds()


def fetch_from_hub(repository: str, files: Sequence[str], revision: str = "") -> VerifiedFile:
    """Returns the local copy of a Hugging Face Hub file, in the cache of the Hub (`HF_HOME`).

    The Hub names cached files by their SHA-256; the content of a file is compared with its name.

    Args:
        repository: `owner/name`.
        files: Paths in the repository that it may have, in order of preference.
        revision: Branch, tag or commit; empty for the main branch.

    Raises:
        OSError: If none can be fetched, or it is damaged and cannot be fetched anew.
    """
    *others, last = files
    for file in others:
        if found := find_on_hub(repository, file, revision, ignore_network_errors=True):
            return found
    with _wrap_errors(repository, files):
        return _download_from_hub(repository, last, revision)


def find_on_hub(
    repository: str, file: str, revision: str = "", ignore_network_errors: bool = False
) -> VerifiedFile | None:
    """Returns a file like `fetch_from_hub`; None if the repository lacks it, or if it is not cached while offline.

    With `absent_if_unknown`, also if the hub cannot be reached.
    """
    import huggingface_hub

    with _wrap_errors(repository, [file]):
        try:
            return _download_from_hub(repository, file, revision)
        except huggingface_hub.errors.LocalEntryNotFoundError:
            if is_offline() or ignore_network_errors:
                return None
            raise
        except huggingface_hub.errors.EntryNotFoundError:
            return None


def _download_from_hub(repository: str, file: str, revision: str) -> VerifiedFile:
    import huggingface_hub

    source = {"repo_id": repository, "filename": file, "revision": revision or None}
    for is_last in (False, True):  # What is damaged in the cache is fetched anew, once.
        path = huggingface_hub.hf_hub_download(**source, local_files_only=is_offline(), force_download=is_last)
        found = VerifiedFile(Path(path), file_sha256(Path(path)))
        if not _is_corrupted(found):
            return found
    raise OSError(f"{found.path}: its sha256 is not the one that the hub states. Remove it and try again.")


@contextlib.contextmanager
def _wrap_errors(repository: str, files: Sequence[str]) -> Iterator[None]:
    """Turns the errors of whatever HTTP library the hub's own library uses into one."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"{' or '.join(files)} of https://huggingface.co/{repository} could not be had: {reason} If the repository "
            "is gated, accept its terms there and set HF_TOKEN; with CONVNEXT_KERAS_OFFLINE or HF_HUB_OFFLINE set, it "
            "must be in the hub's cache already; if it holds a .bin or .pth file only, convert that once by "
            "'convnext-keras convert'."
        ) from error


def _is_corrupted(file: VerifiedFile) -> bool:
    """Returns whether a file's content differs from its name in the hub's cache, where that is a sha256."""
    stated = file.path.resolve().name
    return bool(re.fullmatch(r"[0-9a-f]{64}", stated)) and file.sha256 != stated
