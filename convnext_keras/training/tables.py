"""Tables of images: `.csv` and `.tsv` files, and DataFrames of pandas and polars."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_keras.validation import format_choices, suggestion

TABLE_SUFFIXES = (".csv", ".tsv")
COLUMNS = {
    "path": ("path", "file", "filepath", "file_path", "filename", "file_name", "image"),
    "class": ("class", "label", "category", "labels", "tags"),
}


def is_table(path: Any) -> bool:
    """Returns whether a path names an existing `.csv` or `.tsv` file."""
    is_path = isinstance(path, str | os.PathLike)
    return is_path and Path(path).suffix.lower() in TABLE_SUFFIXES and Path(path).is_file()


def is_data_frame(data: Any) -> bool:
    """Returns whether an object is a DataFrame of pandas or polars."""
    return hasattr(data, "columns") and hasattr(data, "to_dict") and hasattr(data, "shape")


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads a table whose columns are separated by commas, semicolons or tabs.

    Returns:
        The headings in lower case, and the other rows.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        first = stream.readline()
        stream.seek(0)
        rows = [*csv.reader(stream, delimiter=max(",;\t", key=first.count))]
    return [heading.strip().lower() for heading in (rows or [[]])[0]], [row for row in rows[1:] if row]


class Table:
    """Columns of a table, found by their headings in any case.

    Args:
        data: Path of a `.csv` or `.tsv` file, or a DataFrame.

    Raises:
        ValueError: If the table has no rows, or a row with fewer columns than the heading.
    """

    def __init__(self, data: Any) -> None:
        if is_data_frame(data):
            self.name = f"The {type(data).__module__.split('.')[0]} DataFrame"
            self.columns = {str(name).strip().lower(): data[name].to_list() for name in data.columns}
        else:
            path = Path(data)
            self.name = str(path)
            headings, rows = read_csv(path)
            if short := [number for number, row in enumerate(rows, start=2) if len(row) < len(headings)]:
                raise ValueError(f"{path}: row {short[0]} has fewer columns than the heading.")
            self.columns = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
        if not self.columns or not len(next(iter(self.columns.values()))):
            raise ValueError(f"{self.name} has no rows below its heading.")

    def find(self, names: Iterable[str]) -> str | None:
        """Returns the first of some headings that the table has; None if it has none."""
        return next((name for name in names if name in self.columns), None)

    def column(self, names: str | Sequence[str]) -> list[Any]:
        """Returns the values of a column.

        Args:
            names: Its heading, or several of which the first that exists is used.

        Raises:
            ValueError: If there is no such column.
        """
        names = [names] if isinstance(names, str) else names
        found = self.find(name.strip().lower() for name in names)
        if found is None:
            hint = suggestion(names[0], self.columns)
            received = f"Received: {', '.join(self.columns)}"
            raise ValueError(f"{self.name} must have a column {format_choices(names)}. {received}.{hint}")
        return self.columns[found]


def read_csv_columns(path: Path, columns: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns columns of a `.csv` or `.tsv` file, each found by one of some headings, whatever their case.

    Args:
        path: Path of the file.
        columns: The headings that each wanted column may have.

    Raises:
        ValueError: If a column or all rows are missing.
    """
    table = Table(path)
    return [table.column(names) for names in columns.values()]
