"""The command `convnext-keras`: parses, calls the library, prints. One module for each group of commands."""

import sys
from typing import Annotated

import keras
import typer

from convnext_keras import __version__, keep_memory, kernels
from convnext_keras.checkpoints.download import cache_folder
from convnext_keras.cli import classifiers, clip, demo, server, training, weights

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
COMMANDS = {
    "demo": demo.demo,
    "models": weights.models,
    "fetch": weights.fetch,
    "inspect": weights.inspect,
    "save": weights.save,
    "convert": weights.convert,
    "classify": classifiers.classify,
    "explain": classifiers.explain,
    "export": classifiers.export,
    "zero-shot": clip.zero_shot,
    "embed": clip.embed,
    "index": clip.index,
    "search": clip.search,
    "train": training.train,
    "evaluate": training.evaluate,
    "serve": server.serve,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def tell_version(wanted: bool) -> None:
    """Prints the version and ends, if that is wanted."""
    if wanted:
        print(f"convnext-keras {__version__}, keras {keras.__version__} on {keras.backend.backend()}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Tell the version, and end.")
    ] = False,
) -> None:
    """Every public ConvNeXt, in Keras 3. Set [bold]KERAS_BACKEND[/] to tensorflow, jax, torch or openvino."""


def main() -> None:
    """Entry point: an error of the library is one sentence on stderr and exit code 1."""
    kernels.keep_compiled(cache_folder() / "compiled")
    keep_memory()
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"convnext-keras: {error}")
