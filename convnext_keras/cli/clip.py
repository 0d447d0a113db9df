"""Commands of ConvNeXt-CLIP: `zero-shot`, `embed`, `index` and `search`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from convnext_keras.cli.options import (
    DEFAULT_CLIP,
    QUANTIZATIONS,
    TEMPLATE,
    VECTOR_TYPES,
    Address,
    AsJson,
    ClipName,
    ClusterOption,
    Column,
    Devices,
    ExifTranspose,
    Images,
    JobOutput,
    RetryErrors,
    Skip,
    TopK,
    expand_images,
    format_choices,
    job_options,
    load_clip,
    print_summary,
    restore_urls,
)

Template = Annotated[
    list[str], typer.Option(help="Prompt with {} in place of the label; several prompts are averaged.")
]


def zero_shot(
    images: Images,
    labels: Annotated[str, typer.Option(help="Labels, separated by commas.")],
    template: Template = [TEMPLATE],  # noqa: B006 - typer copies it
    weights: ClipName = DEFAULT_CLIP,
    top_k: TopK = 5,
    threshold: Annotated[
        float | None, typer.Option(help="Minimum cosine similarity; below it, no label is given.")
    ] = None,
    as_json: AsJson = False,
    exif_transpose: ExifTranspose = True,
    output: JobOutput = None,
    column: Column = "",
    retry_errors: RetryErrors = False,
    cluster: ClusterOption = "",
    address: Address = "",
    devices: Devices = "",
) -> None:
    """Classify images with custom text labels (zero-shot).

    [dim]convnext-keras zero-shot cat.jpg --labels "a cat, a dog, a bird" --template "{}"[/]

    [dim]convnext-keras zero-shot "shards/*.tar" --labels "a cat, a dog" --output labels/[/]
    """
    from convnext_keras import clip, distributed
    from convnext_keras.clip.zero_shot import validate_labels, validate_templates

    names = validate_labels([label for label in labels.split(",") if label.strip()])
    templates = validate_templates(template)
    job = job_options(output, cluster, address, devices)
    job |= {"column": column, "retry_errors": retry_errors, "exif_transpose": exif_transpose}
    if output:
        if as_json or threshold is not None:
            raise ValueError("--json and --threshold are not of a job; the rows have the cosines.")
        print_summary(
            output,
            distributed.zero_shot(
                weights, names, restore_urls(images), output, templates=templates, top_k=top_k, **job
            ),
        )
        return
    paths = expand_images(images)
    classifier = clip.ZeroShotClassifier(load_clip(weights), names, templates, threshold=threshold)
    predictions = classifier.predict(tqdm(paths, disable=None), top_k, exif_transpose=exif_transpose)
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
            figures = (f"{row.probability:.4f}", f"{row.cosine:.3f}")
            table.add_row(Text(name), Text(label), *figures, end_section=last)
    Console().print(table)


def embed(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Images, directories, .tar shards, .csv or .parquet tables; or one .txt file with one text per line."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(help="Output file (.safetensors, .parquet), or a directory or .lance table for resumable jobs."),
    ],
    weights: ClipName = DEFAULT_CLIP,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images or texts per batch.")] = 32,
    skip: Skip = False,
    dtype: Annotated[
        str, typer.Option(help=f"Type of the vectors: {format_choices(VECTOR_TYPES)}; of a .lance table, of its index.")
    ] = "float32",
    exif_transpose: ExifTranspose = True,
    column: Column = "",
    retry_errors: RetryErrors = False,
    cluster: ClusterOption = "",
    address: Address = "",
    devices: Devices = "",
) -> None:
    """Compute embeddings of images or texts.

    [dim]convnext-keras embed photos/ --output photos.safetensors[/]

    [dim]convnext-keras embed "shards/*.tar" --output vectors/ --cluster ray --devices gpu[/]
    """
    from convnext_keras import distributed
    from convnext_keras.retrieval.lance_index import SUFFIX
    from convnext_keras.retrieval.vector_files import write_vectors

    if output.suffix in ("", SUFFIX):
        if any(path.suffix == ".txt" for path in inputs):
            raise ValueError(f"Vectors of texts go to one file, .safetensors or .parquet. Received: {output}")
        job = job_options(output, cluster, address, devices)
        job |= {"column": column, "retry_errors": retry_errors, "exif_transpose": exif_transpose}
        print_summary(
            output, distributed.embed(weights, restore_urls(inputs), output, dtype=dtype, batch_size=batch_size, **job)
        )
        return
    if cluster or address or devices:
        raise ValueError(f"{output} is one file. For a cluster, write to a folder or a .lance.")
    of_texts = [path for path in inputs if path.suffix == ".txt"]
    if of_texts and len(of_texts) < len(inputs):
        raise ValueError("Embed texts and images by two commands. Received .txt files and others.")
    lines = [line for path in of_texts for line in path.read_text(encoding="utf-8").splitlines()]
    texts = lines if of_texts else None
    items = expand_images(inputs) if texts is None else texts
    if not items:
        raise ValueError(f"{inputs[0]} is empty.")
    model = load_clip(weights)
    progress = tqdm(items, disable=None)
    if texts is None:
        on_error = "skip" if skip else "raise"
        batches = model.iter_image_embeddings(progress, batch_size, on_error, exif_transpose=exif_transpose)
    else:
        starts = range(0, len(texts), batch_size)
        parts = (texts[start : start + batch_size] for start in tqdm(starts, disable=None))
        batches = ((part, model.encode_text(part)) for part in parts)
    print(f"{output}: {write_vectors(output, batches, model, dtype)} vectors of {model.embed_dim}")


def index(
    folder: Annotated[Path, typer.Argument(help="Directory of images, with its subdirectories.")],
    output: Annotated[
        Path,
        typer.Option(help="Index to write, a directory or a .lance table. New images are added to an existing index."),
    ],
    weights: ClipName = DEFAULT_CLIP,
    skip: Skip = False,
    quantization: Annotated[
        str, typer.Option(help=f"Type of the vectors in the index of a .lance table: {format_choices(QUANTIZATIONS)}.")
    ] = "",
) -> None:
    """Build a search index of a directory of images, or add its new images.

    [dim]convnext-keras index photos/ --output photos.index[/]

    [dim]convnext-keras index photos/ --output photos.lance --weights convnext_base_w --quantization binary[/]
    """
    from convnext_keras import retrieval
    from convnext_keras.data.loader import list_images
    from convnext_keras.retrieval.index import item_name
    from convnext_keras.retrieval.lance_index import is_lance_path

    paths, model = list_images(folder), load_clip(weights)
    if quantization and not is_lance_path(output):
        raise ValueError(f"--quantization is of a .lance table; {output} keeps floats.")
    if is_lance_path(output):
        images: Any = retrieval.LanceIndex(output, model, quantization or None)
    else:
        images = retrieval.open_index(output, model) if output.is_dir() else retrieval.InMemoryIndex(model)
    by_name = {item_name(path, 0): path for path in paths}
    new = [by_name[name] for name in images.filter_new(by_name)]
    added = images.add(tqdm(new, disable=None), on_error="skip" if skip else "raise")
    if not is_lance_path(output):
        images.save(output)
    print(f"{output}: {added} images added, {len(images)} in all")


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Index that 'index' wrote.")],
    query: Annotated[str, typer.Argument(help="Text, or path of an image.")],
    top_k: TopK = 10,
    sheet: Annotated[
        Path | None,
        typer.Option("--contact-sheet", help="Image file to write with the results, such as found.png."),
    ] = None,
    image_dir: Annotated[
        Path | None, typer.Option(help="Directory of the images, if it is not beside the index.")
    ] = None,
    where: Annotated[str, typer.Option(help="Condition on columns of a .lance table, such as 'year > 2020'.")] = "",
    as_json: AsJson = False,
) -> None:
    """Search an index by text or by image.

    [dim]convnext-keras search photos.index "a lighthouse in fog" --contact-sheet found.png[/]

    [dim]convnext-keras search photos.lance photo.jpg --top-k 5 --where "year > 2020"[/]
    """
    from convnext_keras import retrieval
    from convnext_keras.contact_sheet import contact_sheet
    from convnext_keras.retrieval.factory import read_index_weights

    index = retrieval.open_index(folder, load_clip(read_index_weights(folder)), image_dir)
    hits = index.search(parse_query(query), top_k, where or None)
    if as_json:
        print(json.dumps([hit._asdict() for hit in hits], indent=2))
    else:
        table = Table("image", "cosine")
        for hit in hits:
            table.add_row(Text(hit.name), f"{hit.cosine:.3f}")
        Console().print(table)
    if sheet:
        cells = [(get_image_file(index, hit.index), f"{hit.cosine:.3f}", "black", hit.name) for hit in hits]
        contact_sheet([cells[start : start + 5] for start in range(0, len(cells), 5)], cell_size=200).save(sheet)


def parse_query(query: str) -> Path | str:
    """Returns a query as the path of an image, if there is one, and as words otherwise."""
    try:
        if Path(query).is_file():
            return Path(query)
    except (OSError, ValueError):  # such as a name that is too long
        return query
    from convnext_keras.data.loader import is_image_file

    if is_image_file(query) and len(query.split()) == 1:
        sys.stderr.write(f"There is no file {query}: it is searched for as words.\n")
    return query


def get_image_file(index: Any, place: int) -> Path | None:
    """Returns the file of an image in an index; None if it is missing."""
    try:
        return index.get_image_path(place)
    except FileNotFoundError:
        return None
