"""Command `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from convnext_keras.cli.options import BUNDLED_CLIP, CLIP_WEIGHTS_HELP


def serve(
    model: Annotated[str, typer.Option(help=f"{CLIP_WEIGHTS_HELP} Or a classifier.")] = BUNDLED_CLIP,
    host: Annotated[str, typer.Option(help="Host to bind. A public address requires API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to bind.")] = 8000,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="File of API keys, one per line. Or set CONVNEXT_KERAS_API_KEYS.")
    ] = None,
    allow_host: Annotated[list[str], typer.Option(help="Accepted host name (repeatable).")] = [],  # noqa: B006
    index: Annotated[list[str], typer.Option(help="NAME=DIRECTORY of an index (repeatable).")] = [],  # noqa: B006
    image_dir: Annotated[list[str], typer.Option(help="NAME=DIRECTORY of the images of an index (repeatable).")] = [],  # noqa: B006
    image_urls: Annotated[str, typer.Option(help="URLs of images to fetch: public, allowlist or off.")] = "public",
    image_host: Annotated[list[str], typer.Option(help="Host in the allowlist (repeatable).")] = [],  # noqa: B006
    batching: Annotated[bool, typer.Option(help="Combine items of different requests into batches.")] = True,
    runtime: Annotated[str, typer.Option(help="Runtime: openvino, onnx, or the Keras backend (default).")] = "",
    streams: Annotated[int, typer.Option(min=1, help="Number of parallel inference streams.")] = 1,
) -> None:
    """Serve embeddings, zero-shot classification and search, or a classifier, over an OpenAI-compatible HTTP API.

    [dim]convnext-keras serve --model convnext_base_w --index photos=photos.index[/]

    [dim]convnext-keras serve --model flowers-model[/]
    """
    try:
        from convnext_keras import server
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}. The server needs more packages: pip install 'convnext-keras[server]'") from error
    server.serve(
        model,
        host=host,
        port=port,
        api_keys_file=api_keys_file,
        allowed_hosts=allow_host,
        indexes=index,
        image_roots=image_dir,
        image_urls=image_urls,
        image_hosts=image_host,
        batching=batching,
        runtime=runtime or None,
        streams=streams,
    )
