"""Argument parsing: flags without a metavar, and errors that name the intended option."""

import difflib
from typing import Any

from typer.core import TyperCommand, TyperGroup

from convnext_keras.cli.options import PRESET_FIELDS


def hide_flag_types(parameters: list[Any]) -> list[Any]:
    """Returns the parameters, changed so that flags show no type in the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.display_type_rich = lambda ctx: None
    return parameters


class Group(TyperGroup):
    """Command group of the program."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters."""
        return hide_flag_types(super().get_params(ctx))


class Command(TyperCommand):
    """Command whose error for an unknown option names the intended preset field."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters."""
        return hide_flag_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, with a hint at `--set` for `--patience` and the like."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            field = getattr(error, "option_name", "").lstrip("-").replace("-", "_")  # of click's NoSuchOption
            options = {option for parameter in self.params for option in parameter.opts}
            fields = [name for name in PRESET_FIELDS if f"--{name.replace('_', '-')}" not in options]
            close = difflib.get_close_matches(field, fields, n=1, cutoff=0.8)
            if close and "--set" in options:
                error.message += f". {close[0]} is a field of the preset: --set {close[0]}=VALUE"  # type: ignore
            raise
