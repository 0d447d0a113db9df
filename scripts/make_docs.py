"""Writes docs/generated, what the site has from elsewhere: pages, notebooks, the zoo, the commands, images.

KERAS_BACKEND=torch python scripts/make_docs.py    # `make docs` does this and builds the site
"""

import csv
import html
import re
import shutil
from pathlib import Path

import click
import matplotlib
import typer
from matplotlib.figure import Figure

from convnext_keras.checkpoints import CLIP_REGISTRY, WeightSet, load_registry
from convnext_keras.cli import app
from convnext_keras.cli.demo import demo
from convnext_keras.configs import CLIP_CONFIGS, CONVNEXT_CONFIGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = DOCS / "generated"
REPOSITORY = "https://github.com/convnext-keras/convnext-keras/blob/main"
# Heading, and whether it is of numbers.
COLUMNS = {
    "weight set": False,
    "variant": False,
    "pixels": True,
    "labels": False,
    "top-1 %": True,
    "million parameters": True,
    "10⁹ multiply-adds": True,
    "license": False,
}
CHARTS = {"10⁹ multiply-adds": "multiply_adds", "million parameters": "parameters", "images/s": "speed"}
INK = {"light": "#1a1a1a", "dark": "#e6e6e6"}
FAMILIES = {"convnext_": "#0b72b9", "convnextv2_": "#d1495b"}


def changelog() -> str:
    """Returns CHANGELOG.md with links to the repository."""
    return re.sub(r"\]\((?!#|\w+:)([^)\s]+)\)", rf"]({REPOSITORY}/\1)", (ROOT / "CHANGELOG.md").read_text())


def counted() -> dict[str, tuple[float, float]]:
    """Million parameters and 10^9 multiply-adds of each variant at its own size, from docs/variants.md."""
    rows = re.findall(r"^\| `(\w+)` \| \d+ \| ([\d,]+) \| ([\d.]+) G", (DOCS / "variants.md").read_text(), re.MULTILINE)
    return {name: (int(num_params.replace(",", "")) / 1e6, float(giga)) for name, num_params, giga in rows}


def counts_of(row: WeightSet, counts: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """Returns million parameters and 10^9 multiply-adds of a weight set; of ConvNeXt-CLIP, those of its image tower."""
    if row.variant in CLIP_CONFIGS:
        variant = CLIP_CONFIGS[row.variant]
        trunk = next(name for name, one in CONVNEXT_CONFIGS.items() if (one.depths, one.dims) == variant.vision[:2])
        million = (variant.num_params or 0) / 1e6
    else:
        trunk, million = row.variant, counts[row.variant][0]
    return million, counts[trunk][1] * (row.input_size / CONVNEXT_CONFIGS[trunk].input_size) ** 2


def zoo() -> str:
    """The table of all weight sets, with fields that filter it."""
    counts, lines, values = counted(), [], {"variant": set(), "labels": set(), "license": set()}
    for known, module in ((load_registry(), ""), (load_registry(CLIP_REGISTRY), "clip.")):
        for name, row in known.items():
            million, giga = counts_of(row, counts)
            code = html.escape(f'{module}create_model("{name}")', quote=True)
            labels = "any, in words" if module else row.labels
            cells = [
                row.variant,
                row.input_size,
                labels,
                row.top1_accuracy,
                f"{million:.1f}",
                f"{giga:.2f}",
                row.license,
            ]
            values["variant"].add(row.variant)
            values["labels"].add(labels)
            values["license"].add(row.license)
            classes = [' class="number"' if is_number else "" for is_number in list(COLUMNS.values())[1:]]
            texts = (html.escape(str(cell or "")) for cell in cells)
            rest = "".join(f"<td{kind}>{text}</td>" for kind, text in zip(classes, texts, strict=True))
            button = f'<button type="button" data-code="{code}" title="Copy {code}">{name}</button>'
            lines.append(f"<tr><td>{button}</td>{rest}</tr>")
    headings = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS)
    order = list(COLUMNS)
    fields = ['<label>name<input type="search" data-column="0" placeholder="tiny, in22k, ..."></label>']
    for name, found in values.items():
        options = "".join(f"<option>{html.escape(value)}</option>" for value in sorted(filter(None, found)))
        choice = f'<select data-column="{order.index(name)}"><option value="">all</option>{options}</select>'
        fields.append(f"<label>{name}{choice}</label>")
    table = (
        f'<table class="zoo"><caption id="zoo-told" aria-live="polite">{len(lines)} weight sets</caption>'
        f"<thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return f'<div class="zoo-filters">{"".join(fields)}</div>\n{table}\n'


def speeds() -> tuple[str, dict[str, float]]:
    """Returns the machine of docs/results/speeds.csv, and images per second by variant."""
    first, *lines = (DOCS / "results" / "speeds.csv").read_text().splitlines()
    return first.removeprefix("# "), {row["variant"]: float(row["images_per_second"]) for row in csv.DictReader(lines)}


def charts() -> str:
    """Images of the best published accuracy of each variant at its own size, for both themes."""
    counts, (measured, rate), lines = counted(), speeds(), []
    best: dict[str, WeightSet] = {}
    for row in load_registry().values():
        usual = (
            row.top1_accuracy
            and row.labels == "imagenet-1k"
            and row.input_size == CONVNEXT_CONFIGS[row.variant].input_size
        )
        if usual and (row.variant not in best or float(row.top1_accuracy) > float(best[row.variant].top1_accuracy)):
            best[row.variant] = row
    for heading, name in CHARTS.items():
        of = {"parameters": lambda key: counts[key][0], "multiply_adds": lambda key: counts[key][1], "speed": rate.get}
        values = {key: of[name](key) for key in best}
        for theme, ink in INK.items():
            matplotlib.rcParams.update({"text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink})
            matplotlib.rcParams.update({"xtick.color": ink, "ytick.color": ink, "svg.hashsalt": "zoo"})
            figure = Figure((7.5, 4.6), layout="constrained")
            axes = figure.add_subplot()
            for prefix, color in FAMILIES.items():
                keys = [key for key in best if key.startswith(prefix)]
                tops = [float(best[key].top1_accuracy) for key in keys]
                axes.scatter([values[key] for key in keys], tops, color=color, label=prefix.rstrip("_"), zorder=3)
                for key, top in zip(keys, tops, strict=True):
                    short = key.removeprefix(prefix)
                    axes.annotate(short, (values[key], top), (4, 3), textcoords="offset points", fontsize=7)
            axes.set(xscale="log", xlabel=heading, ylabel="best published top-1 at this size, %")
            axes.grid(alpha=0.25)
            axes.legend(facecolor="none", labelcolor=ink)
            file = f"zoo_{name}_{theme}.svg"
            figure.savefig(GENERATED / file, transparent=True, metadata={"Date": None})
            alternative = f"Best published accuracy of each variant against {heading}"
            lines += [f"```{{image}} generated/{file}", f":alt: {alternative}", f":class: only-{theme}", "```", ""]
    return "\n".join([*lines, f"Speed: {measured}", ""])


def commands() -> str:
    """The command pages, from the help of each."""
    group = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "`convnext-keras COMMAND --help` prints the same. `convnext-keras --version` prints the version.",
        "",
    ]
    lines += ["`convnext-keras --install-completion` installs completion for your shell.", ""]
    for name, command in group.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        text = re.sub(r"\[/?\w*\]", "", command.help or "")
        examples = [line.strip() for line in text.splitlines() if line.strip().startswith("convnext-keras ")]
        words = " ".join(line.strip() for line in text.splitlines() if line.strip() not in examples).strip()
        lines += [f"## {name}", "", words, "", "```console", *(f"$ {example}" for example in examples), "```", ""]
        lines += ["| argument or option | | default |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name != "help":
                lines.append(described(parameter))
        lines.append("")
    return "\n".join(lines)


def described(parameter: click.Parameter) -> str:
    """A row of a command's table."""
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [(parameter.name or "").upper()]
    default = "" if parameter.default in (None, "", [], False) or callable(parameter.default) else parameter.default
    text = (getattr(parameter, "help", "") or "").replace("|", "\\|").replace("*", "\\*")
    shown = ", ".join(default) if isinstance(default, list | tuple) else default
    return f"| {', '.join(f'`{name}`' for name in names)} | {text} | {f'`{shown}`' if shown != '' else ''} |"


def main() -> None:
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    (GENERATED / "changelog.md").write_text(changelog())
    shutil.copytree(ROOT / "notebooks", GENERATED / "notebooks")
    (GENERATED / "zoo.md").write_text(f"{zoo()}\n{charts()}")
    (GENERATED / "commands.md").write_text(commands())
    demo(output=GENERATED)


if __name__ == "__main__":
    main()
