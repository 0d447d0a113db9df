"""Command `convnext-keras`: parses arguments, calls the library, prints. One module per group of commands.

The modules import the library inside the functions that use it, so that `--help` and usage errors need no Keras.
"""

import functools
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer

from convnext_keras import __version__, fast_import
from convnext_keras.cli import averaging, clip, demo, evaluation, image, models, segmentation, server, training
from convnext_keras.cli.parsing import Command, Group

app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "models": models.models,
    "fetch": models.fetch,
    "inspect": models.inspect,
    "save": models.save,
    "convert": models.convert,
    "classify": image.classify,
    "segment": segmentation.segment,
    "explain": image.explain,
    "export": image.export_model,
    "zero-shot": clip.zero_shot,
    "embed": clip.embed,
    "index": clip.index,
    "search": clip.search,
    "train": training.train,
    "evaluate": evaluation.evaluate,
    "average": averaging.average,
    "serve": server.serve,
}


def with_library(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with the library's preparation for one process: backend, caches, memory."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        fast_import.import_keras()
        from convnext_keras import backend, reuse_allocator_memory
        from convnext_keras.checkpoints.download import cache_dir

        backend.enable_compilation_cache(cache_dir() / "compiled")
        reuse_allocator_memory()
        command(*arguments, **options)

    return run


for name, command in COMMANDS.items():
    app.command(name, cls=Command)(with_library(command))


def print_version(wanted: bool) -> None:
    """Prints the versions of the package and of Keras, and the backend, if `wanted`."""
    if wanted:
        print(f"convnext-keras {__version__}, keras {version_of('keras')} on {fast_import.select_backend()}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """ConvNeXt and ConvNeXt-CLIP for Keras 3. Set [bold]KERAS_BACKEND[/] to tensorflow, jax, torch or openvino."""


def main() -> None:
    """Runs the command; an error of the library is one sentence on stderr and exit status 1."""
    try:
        app()
    except KeyboardInterrupt:
        print(f"{fast_import.COMMAND}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"{fast_import.COMMAND}: {error}")
