"""Start of the server from the options of the command line."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import uvicorn

from convnext_keras import backend
from convnext_keras.checkpoints.download import cache_dir
from convnext_keras.server.app import create_app
from convnext_keras.server.image_fetching import ImageURLPolicy
from convnext_keras.server.limits import ServerLimits
from convnext_keras.server.middleware import LOOPBACK, configured_keys
from convnext_keras.server.protocol import bounded_protocol

DRAIN_SECONDS = 30  # until a stopping server ends accepted requests


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_keys_file: str | os.PathLike | None = None,
    allowed_hosts: Iterable[str] = (),
    indexes: Iterable[str] = (),
    image_roots: Iterable[str] = (),
    image_urls: str = "public",
    image_hosts: Iterable[str] = (),
    batching: bool = True,
    runtime: str | None = None,
    streams: int = 1,
) -> None:
    """Serves until SIGTERM or SIGINT, then answers the requests that it has accepted, and ends.

    Args:
        model: See `create_app`.
        host: Address to listen at.
        port: Port to listen at.
        api_keys_file: See `configured_keys`.
        allowed_hosts: Names that the server is reached by, beside `host` and those of this machine.
        indexes: Folders made by `convnext-keras index`, each `NAME=FOLDER`.
        image_roots: Directories of images, each as `NAME=FOLDER` with the name of an index.
        image_urls: `"public"`, `"allowlist"` or `"off"`; see `ImageURLPolicy`.
        image_hosts: Image hosts for `"allowlist"`.
        batching: Whether items of different requests run together.
        runtime: See `create_app`.
        streams: See `create_app`.

    Raises:
        ValueError: If others than this machine could reach a server without keys, or an argument is not valid.
    """
    api_keys = configured_keys(api_keys_file)
    if host not in LOOPBACK and not api_keys:
        raise ValueError(
            f"A server without keys must listen at {LOOPBACK[0]}. Received: host={host!r}. Set the variable "
            "CONVNEXT_KERAS_API_KEYS or give --api-keys-file FILE."
        )
    image_url_policy = ImageURLPolicy.of(image_urls, image_hosts)
    folders: dict[str, Any] = {
        "indexes": named_folders("--index", indexes),
        "image_roots": named_folders("--image-dir", image_roots),
    }
    backend.enable_compilation_cache(cache_dir() / "compiled")
    settings: dict[str, Any] = {
        "image_url_policy": image_url_policy,
        "batching": batching,
        "runtime": runtime,
        "streams": streams,
    }
    app = create_app(model, api_keys=api_keys, allowed_hosts=[host, *allowed_hosts], **folders, **settings)
    # Headers of proxies are not believed, and the access log is the application's own.
    quiet = {"access_log": False, "proxy_headers": False, "server_header": False, "log_config": LOGGING}
    http = bounded_protocol(ServerLimits().max_header_bytes)
    uvicorn.run(app, host=host, port=port, http=http, timeout_graceful_shutdown=DRAIN_SECONDS, **quiet)


def named_folders(option: str, values: Iterable[str]) -> dict[str, Path]:
    """Parses `["photos=folder"]` to a mapping.

    Raises:
        ValueError: If one has no name or no folder, or two have the same name.
    """
    folders = {}
    for given in values:
        name, equals, folder = given.partition("=")
        if not (name and equals and folder) or "/" in name or name in folders:
            raise ValueError(f"{option} must be NAME=FOLDER with a name of its own. Received: {given!r}")
        folders[name] = Path(folder)
    return folders


# The log of requests is JSON, one object a line, on stderr; uvicorn's own messages go there too.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "convnext_keras.server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
