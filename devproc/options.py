"""Options of the command line from a device's configuration: a frozen dataclass, each field an option.

``limit: Annotated[int, "words to hand out"] = 0`` is ``--limit N``, with that help and default; without a default it
is required. Types are int (``0x10`` too), float, str, Path, bool, ``Literal`` (choices), and each of them ``| None``.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from protocol.errors import ConfigError


def _whole(text: str) -> int:
    return int(text, 0)


_whole.__name__ = "whole number"  # argparse names it in its errors
_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("N", _whole),
    float: ("X", float),
    str: ("TEXT", str),
    Path: ("PATH", Path),
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One field as an option."""

    name: str
    kind: Any
    """int, float, str, Path, bool, or a tuple of choices."""
    default: Any
    required: bool
    doc: str

    @property
    def flag(self) -> str:
        """``--with-dashes``."""
        return "--" + self.name.replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        return (
            "" if self.kind is bool else "|".join(self.kind) if isinstance(self.kind, tuple) else _READERS[self.kind][0]
        )


def options_of(config: type) -> list[Option]:
    """Return the options of a configuration.

    Raises:
        TypeError: it is no dataclass, or has a field of another type.
    """
    if not dataclasses.is_dataclass(config):
        raise TypeError(f"{config.__name__} is no dataclass")
    hints = get_type_hints(config, include_extras=True)
    found = []
    for field in dataclasses.fields(config):
        kind, doc = _kind(hints[field.name])
        if kind is not bool and not isinstance(kind, tuple) and kind not in _READERS:
            raise TypeError(f"{config.__name__}.{field.name}: no option can be of type {kind}")
        default = field.default
        if not isinstance(field.default_factory, dataclasses._MISSING_TYPE):
            default = field.default_factory()
        required = default is dataclasses.MISSING
        found.append(Option(field.name, kind, None if required else default, required, doc))
    return found


def _kind(hint: Any) -> tuple[Any, str]:
    doc = ""
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        doc = next((note for note in notes if isinstance(note, str)), "")
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        return get_args(hint), doc
    return hint, doc


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add an option per field."""
    for option in options_of(config):
        shown = option.doc or option.name.replace("_", " ")
        if option.kind is bool:
            action = argparse.BooleanOptionalAction if option.default else "store_true"
            parser.add_argument(option.flag, action=action, default=bool(option.default), help=shown)
            continue
        more = "needed" if option.required else f"default: {option.default}"
        choices: dict[str, Any] = {"choices": option.kind} if isinstance(option.kind, tuple) else {
            "type": _READERS[option.kind][1], "metavar": option.metavar,
        }  # fmt: skip
        if option.default in (None, "") and not option.required:
            more = "optional"
        parser.add_argument(option.flag, default=option.default, help=f"{shown} ({more})", **choices)


def configured(config: type, options: argparse.Namespace) -> Any:
    """Return the configuration that the options make.

    Raises:
        ConfigError: a required one is missing, or the dataclass refuses a value by raising ``ValueError``.
    """
    values = {}
    for option in options_of(config):
        values[option.name] = getattr(options, option.name)
        if option.required and values[option.name] is None:
            raise ConfigError(f"{option.flag} is missing", hint=f"{option.flag} {option.metavar}: {option.doc}")
    try:
        return config(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error
