"""The command `convnext-keras`: parses, calls the library, prints."""

import difflib
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from convnext_keras import clip, create_model, decode_predictions, fold_for_inference, list_weights, sheets
from convnext_keras import demo as demonstration
from convnext_keras.clip.models import CLIP_VARIANTS
from convnext_keras.clip.retrieval import index_weights, picture_files, write_vectors
from convnext_keras.clip.zero_shot import checked_labels, checked_templates
from convnext_keras.preprocessing import in_batches
from convnext_keras.variants import VARIANTS
from convnext_keras.weights import RESTRICTED, WeightSet, default, fetch, registry

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
WHICH = "Weight set; 'convnext-keras models' lists them."
WeightSetName = Annotated[str, typer.Option(help=WHICH)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ClipName = Annotated[str, typer.Option("--weights", help="ConvNeXt-CLIP weight set; 'models --clip' lists them.")]
Template = Annotated[list[str], typer.Option(help="Prompt with {} for the label; several are averaged.")]
Pictures = Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.", show_default=False)]
Top = Annotated[int, typer.Option(min=1, help="How many to show.")]
CLIP = "convnext_base_w"


def main() -> None:
    """Entry point: an error of the library is one sentence on stderr and exit code 1."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"convnext-keras: {error}")


@app.callback()
def program() -> None:
    """Every public ConvNeXt, in Keras 3. Set [bold]KERAS_BACKEND[/] to tensorflow, jax, torch or openvino."""


def weight_set_named(name: str) -> WeightSet:
    """The registry's row of that name, or of a variant's first weight set."""
    found = registry().get(name) or default(name)
    if found is None:
        close = difflib.get_close_matches(name, registry(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name!r} is no weight set.{hint} 'convnext-keras models' lists them.")
    return found


@app.command()
def classify(
    images: Pictures,
    weights: WeightSetName = "convnext_tiny.imagenet",
    top: Top = 5,
    as_json: AsJson = False,
) -> None:
    """Names what is in pictures.

    [dim]convnext-keras classify cat.jpg dog.jpg --weights convnext_base --top 3[/]
    """
    weight_set, images = weight_set_named(weights), chosen_pictures(images)
    if not weight_set.labels:
        raise ValueError(f"{weight_set.name} has no classes. Choose a weight set with a classifier.")
    batches = in_batches(images, weight_set.recipe, batch_size=32)
    first = next(batches)  # Before anything is fetched.
    model = create_model(weight_set.name)
    scores = np.concatenate([model.predict_on_batch(pixels) for _, pixels in itertools.chain([first], batches)])
    decoded = decode_predictions(scores, top=top, labels=weight_set.labels)
    if as_json:
        keys = ("id", "name", "score")
        rows = [[dict(zip(keys, row, strict=True)) for row in rows] for rows in decoded]
        results = [{"image": str(image), "predictions": row} for image, row in zip(images, rows, strict=True)]
        print(json.dumps(results, indent=2))
        return
    table = Table("image", "class", "id", "score")
    for image, rows in zip(images, decoded, strict=True):
        for rank, (identifier, name, score) in enumerate(rows):
            shown, last = "" if rank else str(image), rank == len(rows) - 1
            table.add_row(shown, name, identifier, f"{score:.4f}", end_section=last)
    Console().print(table)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as '*base*'.")] = "*",
    license: Annotated[str, typer.Option(help="Only this licence, such as mit.")] = "",
    labels: Annotated[str, typer.Option(help="Only this label set, such as imagenet-1k.")] = "",
    size: Annotated[int, typer.Option(help="Only this input size in pixels.")] = 0,
    clip_models: Annotated[bool, typer.Option("--clip", help="Those of ConvNeXt-CLIP.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists what exists: weight sets with their size, parameters, licence and published accuracy.

    [dim]convnext-keras models "convnextv2*" --size 384[/]
    """
    wanted = {"license": license, "labels": labels, "input_size": size}
    if clip_models:
        rows = [registry("clip")[name] for name in clip.list_weights(pattern)]
        variants = CLIP_VARIANTS
    else:
        rows, variants = [registry()[name] for name in list_weights(pattern)], VARIANTS
    rows = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items() if value)]
    if as_json:
        print(json.dumps([{"name": row.name, **row._asdict()} for row in rows], indent=2))
        return
    table = Table("weight set", "million parameters", "MB", "pixels", "classes", "top-1 %", "licence")
    for row in rows:
        million = f"{(variants[row.variant].parameters or 0) / 1e6:.1f}"
        licence = f"[yellow]{row.license}[/]" if row.license in RESTRICTED else row.license
        table.add_row(row.name, million, str(row.megabytes), str(row.input_size), str(row.classes), row.top1, licence)
    Console().print(table)
    restrictions = "; ".join(f"{name}: {meaning}" for name, meaning in RESTRICTED.items())
    Console().print(f"[yellow]Licences in yellow[/] restrict the use: {restrictions}.")


@app.command("fetch")
def fetch_file(
    name: Annotated[str, typer.Argument(help=WHICH)],
    top: Annotated[bool, typer.Option(help="The file with the classifier, or without.")] = True,
) -> None:
    """Downloads a weight set for later and prints where it lies.

    [dim]convnext-keras fetch convnext_base.imagenet --no-top[/]
    """
    print(fetch(weight_set_named(name), include_top=top))


def chosen_pictures(images: Iterable[Path]) -> list[Path]:
    """The pictures given, and those in the folders given."""
    return [path for given in images for path in (picture_files(given) if given.is_dir() else [given])]


@app.command("zero-shot")
def zero_shot(
    images: Pictures,
    labels: Annotated[str, typer.Option(help="What to tell apart, separated by commas.")],
    template: Template = ["a photo of a {}."],  # noqa: B006 - typer copies it
    weights: ClipName = CLIP,
    top: Top = 5,
    threshold: Annotated[float | None, typer.Option(help="Cosine below which it is none of the labels.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tells which of any labels fits a picture best.

    [dim]convnext-keras zero-shot cat.jpg --labels "a cat, a dog, a bird" --template "{}"[/]
    """
    names = checked_labels([label for label in labels.split(",") if label.strip()])
    templates = checked_templates(template)
    paths = chosen_pictures(images)
    classifier = clip.ZeroShotClassifier(clip.create_model(weights), names, templates, threshold=threshold)
    predictions = classifier.predict(tqdm(paths, disable=None), top)
    if as_json:
        pairs = zip(paths, predictions, strict=True)
        results = [{"image": str(path), "predictions": [row._asdict() for row in rows]} for path, rows in pairs]
        print(json.dumps(results, indent=2))
        return
    table = Table("image", "label", "probability", "cosine")
    for path, rows in zip(paths, predictions, strict=True):
        for rank, row in enumerate(rows):
            name, last = "" if rank else str(path), rank == len(rows) - 1
            label = row.label or "none of these"
            table.add_row(name, label, f"{row.probability:.4f}", f"{row.cosine:.3f}", end_section=last)
    Console().print(table)


@app.command()
def embed(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures or folders, or one .txt file with a text a line.")],
    output: Annotated[Path, typer.Option(help="A .safetensors or .parquet file (which needs pyarrow).")],
    weights: ClipName = CLIP,
    batch_size: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 32,
    skip: Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, with a warning.")] = False,
) -> None:
    """Writes unit vectors of pictures or texts, with their names.

    [dim]convnext-keras embed photos/ --output photos.safetensors[/]
    """
    texts = inputs[0].read_text(encoding="utf-8").splitlines() if inputs[0].suffix == ".txt" else None
    items = chosen_pictures(inputs) if texts is None else texts
    if not items:
        raise ValueError(f"{inputs[0]} is empty.")
    model = clip.create_model(weights)
    progress = tqdm(items, disable=None)
    if texts is None:
        batches = model.image_batches(progress, batch_size, "skip" if skip else "raise")
    else:
        starts = range(0, len(texts), batch_size)
        parts = (texts[start : start + batch_size] for start in tqdm(starts, disable=None))
        batches = ((part, model.encode_text(part)) for part in parts)
    print(f"{output}: {write_vectors(output, batches, model)} vectors of {model.output_width}")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, searched with the folders in it.")],
    output: Annotated[Path, typer.Option(help="Folder of the index; one that exists grows.")],
    weights: ClipName = CLIP,
    skip: Annotated[bool, typer.Option(help="Leave out pictures that cannot be read, with a warning.")] = False,
) -> None:
    """Makes a folder of pictures searchable, or adds what is new in it.

    [dim]convnext-keras index photos/ --output photos.index[/]
    """
    paths, model = picture_files(folder), clip.create_model(weights)
    found = clip.ImageIndex.load(output, model) if output.is_dir() else clip.ImageIndex(model)
    known = set(found.names)
    new = [path for path in paths if str(path) not in known]
    added = found.add(tqdm(new, disable=None), on_error="skip" if skip else "raise")
    found.save(output)
    print(f"{output}: {added} pictures added, {len(found)} in all")


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that 'index' wrote.")],
    query: Annotated[str, typer.Argument(help="Words, or the path of a picture.")],
    top: Top = 10,
    sheet: Annotated[Path | None, typer.Option(help="Write a sheet of the pictures found, such as found.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Finds pictures by words or by another picture.

    [dim]convnext-keras search photos.index "a lighthouse in fog" --sheet found.png[/]
    """
    found = clip.ImageIndex.load(folder, clip.create_model(index_weights(folder)))
    hits = found.search(Path(query) if Path(query).is_file() else query, top)
    if as_json:
        print(json.dumps([hit._asdict() for hit in hits], indent=2))
    else:
        table = Table("picture", "cosine")
        for hit in hits:
            table.add_row(hit.name, f"{hit.cosine:.3f}")
        Console().print(table)
    if sheet:
        cells = [(hit.name, f"{hit.cosine:.3f}", "black") for hit in hits]
        sheets.sheet_of([cells[start : start + 5] for start in range(0, len(cells), 5)], cell=200).save(sheet)


@app.command()
def export(
    weights: Annotated[str, typer.Argument(help=WHICH)],
    output: Annotated[str, typer.Option(help="Folder of a SavedModel, or file of another format.")],
    file_format: Annotated[str, typer.Option("--format", help="What Keras exports.")] = "tf_saved_model",
) -> None:
    """Writes a model for inference in a format of other programs: tf_saved_model, openvino, onnx, litert or torch.

    [dim]convnext-keras export convnext_tiny --output tiny.xml --format openvino[/]
    """
    fold_for_inference(create_model(weight_set_named(weights).name)).export(output, format=file_format, verbose=False)
    print(output)


@app.command()
def serve(
    model: Annotated[
        str, typer.Option(help="ConvNeXt-CLIP weight set; 'models --clip' lists them.")
    ] = demonstration.SHAPES,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine only with keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of keys, one a line; or set CONVNEXT_KERAS_API_KEYS.")] = None,
    index: Annotated[list[str], typer.Option(help="NAME=FOLDER that 'index' wrote.")] = [],  # noqa: B006
    image_urls: Annotated[str, typer.Option(help="Which pictures to fetch: public, allowlist or off.")] = "public",
    image_host: Annotated[list[str], typer.Option(help="A host for the allowlist.")] = [],  # noqa: B006
    batching: Annotated[bool, typer.Option(help="Run items of different requests together.")] = True,
) -> None:
    """Serves embeddings, zero-shot classification and search over HTTP, as OpenAI's clients expect.

    [dim]convnext-keras serve --model convnext_base_w --index photos=photos.index[/]
    """
    try:
        from convnext_keras import server
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}. The server needs more packages: pip install 'convnext-keras[server]'") from error
    server.serve(model, host, port, keys, index, image_urls, image_host, batching)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the pictures that it writes.")] = Path(),
) -> None:
    """Runs the two bundled models on pictures that they never saw in training, offline.

    [dim]convnext-keras demo[/]
    """
    output.mkdir(parents=True, exist_ok=True)
    shown = demonstration.classify_digits(output / "predictions.png")
    for part in [*shown, *demonstration.search_shapes(output / "search.png")]:
        if isinstance(part, str):
            print(part)
        else:
            Console().print(part)
