"""Command `average`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convnext_keras.cli.data_options import DATA_HELP


def average(
    models: Annotated[list[str], typer.Argument(help="Directories or .keras files of models of one architecture.")],
    output: Annotated[Path, typer.Option(help="Directory to write; it must not exist.")],
    data: Annotated[
        Path | None, typer.Option(help=f"Validation data: only models that improve the average. {DATA_HELP}")
    ] = None,
) -> None:
    """Average the weights of fine-tuned models, or find the best average on validation data (greedy soup).

    [dim]convnext-keras average flowers-0 flowers-1 flowers-2 --output average[/]
    [dim]convnext-keras average flowers-0 flowers-1 flowers-2 --output soup --data flowers/val[/]
    """
    from convnext_keras import create_model, save_pretrained, training

    if len(models) < 2:
        raise ValueError(f"average requires two models or more. Received: {len(models)}")
    if output.exists():
        raise ValueError(f"{output} exists. Choose another directory.")
    loaded = [create_model(name) for name in models]
    mixed = training.greedy_soup(loaded, data) if data else training.average_weights(loaded)
    save_pretrained(mixed, output, "keras")
    print(f"{output}: average of {len(models)} models" if data is None else f"{output}: greedy soup")
