"""Command `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from convnext_keras.cli.options import BUNDLED_CLIP, CLIP_WEIGHTS_HELP


def serve(
    model: Annotated[str, typer.Option(help=f"{CLIP_WEIGHTS_HELP} Or a classifier.")] = BUNDLED_CLIP,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine only with keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="File of keys, one a line; or set CONVNEXT_KERAS_API_KEYS.")
    ] = None,
    allow_host: Annotated[list[str], typer.Option(help="A name that clients reach the server by.")] = [],  # noqa: B006
    index: Annotated[list[str], typer.Option(help="NAME=FOLDER that 'index' wrote.")] = [],  # noqa: B006
    image_dir: Annotated[list[str], typer.Option(help="NAME=FOLDER that an index's images lie in.")] = [],  # noqa: B006
    image_urls: Annotated[str, typer.Option(help="Which images to fetch: public, allowlist or off.")] = "public",
    image_host: Annotated[list[str], typer.Option(help="A host for the allowlist.")] = [],  # noqa: B006
    batching: Annotated[bool, typer.Option(help="Run items of different requests together.")] = True,
    runtime: Annotated[str, typer.Option(help="openvino or onnx, to run the model without Keras' backend.")] = "",
    streams: Annotated[int, typer.Option(min=1, help="Batches that the engine runs at a time, on a share each.")] = 1,
) -> None:
    """Serves embeddings, zero-shot classification and search over HTTP, as OpenAI's clients expect, or a classifier.

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
