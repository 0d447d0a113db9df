"""Commands of weights: `models`, `fetch`, `inspect`, `save` and `convert`."""

import fnmatch
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convnext_keras.cli.options import WEIGHTS_HELP, AsJson, load_saved_model, resolve_weights


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as '*base*'.")] = "*",
    license: Annotated[str, typer.Option(help="Filter by license, such as mit.")] = "",
    labels: Annotated[str, typer.Option(help="Filter by label set, such as imagenet-1k.")] = "",
    size: Annotated[int, typer.Option(help="Filter by input size in pixels; 0 for all.")] = 0,
    clip_models: Annotated[bool, typer.Option("--clip", help="List the ConvNeXt-CLIP weight sets.")] = False,
    segmentation_models: Annotated[
        bool, typer.Option("--segmentation", help="List the weight sets for segmentation.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List weight sets with size, parameters, license and published accuracy.

    [dim]convnext-keras models "convnextv2*" --size 384[/]

    [dim]convnext-keras models --clip[/]
    """
    from convnext_keras import clip, list_weights
    from convnext_keras.checkpoints import CLIP_REGISTRY, RESTRICTED_LICENSES, SEGMENTATION_REGISTRY, load_registry
    from convnext_keras.configs import (
        CLIP_CONFIGS,
        CONVNEXT_CONFIGS,
        SEGMENTATION_CONFIGS,
        count_segmentation_params,
    )

    wanted = {"license": license, "labels": labels, "input_size": size}
    if segmentation_models:
        known = load_registry(SEGMENTATION_REGISTRY)
        rows, variants = [known[name] for name in fnmatch.filter(known, pattern)], {}
    elif clip_models:
        rows, variants = [load_registry(CLIP_REGISTRY)[name] for name in clip.list_weights(pattern)], CLIP_CONFIGS
    else:
        rows, variants = [load_registry()[name] for name in list_weights(pattern)], CONVNEXT_CONFIGS
    rows = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items() if value)]
    if as_json:
        print(json.dumps([{"name": row.name, **row._asdict()} for row in rows], indent=2))
        return
    accuracy = "mean IoU %" if segmentation_models else "top-1 %"
    table = Table("weight set", "million parameters", "MB", "pixels", "classes", accuracy, "license")
    for row in rows:
        if segmentation_models:
            count = count_segmentation_params(SEGMENTATION_CONFIGS[row.variant], row.classes)
        else:
            count = variants[row.variant].num_params or 0
        million = f"{count / 1e6:.1f}"
        license = f"[yellow]{row.license}[/]" if row.license in RESTRICTED_LICENSES else row.license
        table.add_row(
            row.name,
            million,
            str(row.size_mb),
            str(row.input_size),
            str(row.classes),
            row.mean_iou or row.top1_accuracy,
            license,
        )
    Console().print(table)
    restrictions = "; ".join(f"{name}: {meaning}" for name, meaning in RESTRICTED_LICENSES.items())
    Console().print(f"[yellow]Licenses in yellow[/] restrict the use: {restrictions}.")


def fetch(
    name: Annotated[str, typer.Argument(help=WEIGHTS_HELP)],
    top: Annotated[bool, typer.Option(help="Download the file with or without the classifier.")] = True,
) -> None:
    """Download a weight set and print its path.

    [dim]convnext-keras fetch convnext_base.imagenet --no-top[/]

    [dim]convnext-keras fetch hf://timm/convnextv2_nano.fcmae_ft_in1k[/]
    """
    from convnext_keras import checkpoints

    print(checkpoints.fetch_weights(resolve_weights(name), include_top=top).path)


def _decoder_facts(description: Any) -> dict[str, Any]:
    """Returns the attributes of the decoder of a segmentation model; none for others."""
    facts = description.segmentation._asdict() if description.segmentation else {}
    return {name: value for name, value in facts.items() if name != "backbone"}


def inspect(
    name: Annotated[str, typer.Argument(help="hf://owner/name[@revision], or a directory.")],
    as_json: AsJson = False,
) -> None:
    """Show architecture, classes, transform and license of a repository, without downloading its weights.

    [dim]convnext-keras inspect hf://timm/convnextv2_nano.fcmae_ft_in1k[/]

    [dim]convnext-keras inspect model.safetensors[/]
    """
    from convnext_keras import hub
    from convnext_keras.configs import ConvNeXtConfig

    description = hub.load_model_info(name)
    if description is None:
        raise ValueError(f"{name!r} is neither hf://owner/name nor a folder.")
    names = description.labels if isinstance(description.labels, tuple) else ()
    shown = ", ".join(label for _, label in names[:5]) + (", ..." if len(names) > 5 else "")
    towers = description.clip
    default = ConvNeXtConfig(description.variant.depths, description.variant.dims)._asdict()
    others = {key: value for key, value in description.variant._asdict().items() if value != default[key]}
    facts = {
        "format": description.format,
        "depths": description.variant.depths,
        "dims": description.variant.dims,
        **others,
        **({"embedding": towers.embed_dim, **towers.text._asdict()} if towers else {}),
        **_decoder_facts(description),
        "parameters": description.num_params,
        "classes": f"{description.classes} {shown or (description.labels or '')}".strip(),
        "activation": description.activation,
        **{f"transform: {key}": value for key, value in description.transform._asdict().items()},
        "license": description.license or "not stated",
        "notes": " ".join(description.notes),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("what", "as described", show_lines=False)
    for key, value in facts.items():
        table.add_row(key, Text(str(value)))  # Not markup: the words are a stranger's.
    Console().print(table)


def save(
    name: Annotated[str, typer.Argument(help=WEIGHTS_HELP)],
    folder: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    file_format: Annotated[
        str, typer.Option("--format", help="Format: timm, transformers, open_clip or keras.")
    ] = "timm",
    weights: Annotated[Path | None, typer.Option(help="Weight file of your own for the same model.")] = None,
) -> None:
    """Write weights as a repository for timm, transformers, OpenCLIP or this library.

    [dim]convnext-keras save convnext_tiny.imagenet tiny --format transformers[/]

    [dim]convnext-keras save flowers-model/model.keras flowers --format timm[/]
    """
    from convnext_keras import clip, create_model, hub, load_weights, save_pretrained

    of_clip = file_format == "open_clip" or hub.is_clip_repo(name)
    model = clip.create_model(name) if of_clip else load_saved_model(name) or create_model(resolve_weights(name))
    if weights:
        load_weights(model, weights)
    save_pretrained(model, folder, file_format)
    print(folder)


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch checkpoint: a .pth, .pt or .bin file.")],
    output: Annotated[Path, typer.Argument(help=".safetensors file to write; it must not exist.")],
) -> None:
    """Convert a PyTorch checkpoint to a .safetensors file. Requires PyTorch; no code in the file is run.

    [dim]convnext-keras convert convnext_tiny_1k_224_ema.pth convnext_tiny.safetensors[/]

    [dim]convnext-keras convert pytorch_model.bin model.safetensors[/]
    """
    from convnext_keras import checkpoints

    tensors = checkpoints.convert_checkpoint(checkpoint, output)
    print(f"{output}: {len(tensors)} tensors")
