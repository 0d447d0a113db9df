"""Draws docs/images/parity.png: the maximum relative difference of every model in docs/parity.md.

python scripts/plot_parity.py
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"
ALLOWED = 1e-4


def differences() -> dict[str, list[float]]:
    """Returns the differences by peer."""
    found: dict[str, list[float]] = {}
    for line in PAGE.read_text().splitlines():
        row = re.match(r"\| ([A-Za-z_. ]+?)(?: [\d.]+)? \|.*\| ([\d.]+e-\d\d) \|$", line)
        if row:
            found.setdefault(row[1], []).append(float(row[2]))
    return found


def main() -> None:
    found = differences()
    figure = Figure((8, 0.5 * len(found) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, values in enumerate(found.values()):
        axes.scatter(values, [place] * len(values), alpha=0.6)
    axes.axvline(ALLOWED, color="tab:red", label="tolerance of the tests")
    axes.set_yticks(range(len(found)), [f"{name} ({len(values)})" for name, values in found.items()])
    axes.set(xscale="log", xlabel="largest relative difference of a model's outputs, float32")
    axes.legend()
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(PAGE.with_name("images") / "parity.png", dpi=110)
    print({name: (len(values), max(values)) for name, values in found.items()})


if __name__ == "__main__":
    main()
