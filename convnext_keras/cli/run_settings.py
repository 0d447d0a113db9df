"""Sources of a training config on the command line: preset, file, `--set` and options."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext_keras.cli.options import PRESET_FIELDS

if TYPE_CHECKING:
    from convnext_keras.training import TrainingConfig


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Sources of a training config: preset, file, `--set` and options, each stronger than the one before."""

    preset: str
    file: Path | None
    changes: list[str]
    options: dict[str, Any]

    def resolve(self, config: TrainingConfig) -> TrainingConfig:
        """Returns a config with the changes of the file, of `--set` and of the options."""
        values = {**(read_config_file(self.file) if self.file else {}), **parse_changes(self.changes), **self.options}
        if "epochs" in values:  # The user's number counts, not the minimum of the preset.
            values.setdefault("min_steps", 0)
        return dataclasses.replace(config, **values)


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads fields of a training config from a TOML or YAML file.

    Raises:
        ValueError: If the file cannot be parsed, or has other keys.
    """
    try:
        if path.suffix.lower() == ".toml":
            values: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            raise ValueError("its name must end in .toml, .yaml or .yml")
    except Exception as error:  # Parsers have their own types.
        raise ValueError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must have fields with values, such as epochs = 10.")
    return parse_fields(values, f"--config {path}")


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """Returns fields set by `name=value`, where the value is JSON or a word.

    Raises:
        ValueError: If there is no such field.
    """
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        try:
            values[name] = json.loads(value) if equals else None
        except json.JSONDecodeError:
            values[name] = value
        if not equals:
            raise ValueError(f"--set takes name=value with a field of the config: {', '.join(sorted(PRESET_FIELDS))}.")
    return parse_fields(values, "--set")


def parse_fields(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns fields of a config with tuples in place of lists; raises ValueError for an unknown field."""
    unknown = [name for name in values if name not in PRESET_FIELDS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], PRESET_FIELDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{source} takes name=value with a field of the config: {', '.join(sorted(PRESET_FIELDS))}. "
            f"Received: {unknown[0]!r}.{hint}"
        )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
