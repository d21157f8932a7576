"""Turns the last words of a process that failed into the one line a user needs: file, line, key, what, hint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.config import Config
from orchestrator.plan import BACK_END, CPU
from protocol.errors import BusvmError, ConfigError, HostError

_ERROR = re.compile(r"(?:.*?: )?error: (.*)")
_HINT = re.compile(r"\s*hint: (.*)")
_LOAD = re.compile(r"(?:--)?load (\d+)\b")
_OFF = re.compile(r"state=off reason='exit status (-?\d+)'")
_CHATTER = re.compile(r"time=\S+ level=(?:info|debug) ")  # who serves writes into the log of who stands by, too
_LOGGED = re.compile(r"time=\S+ level=(?:error|critical) .*\bmsg=(.*)")


def said(lines: Sequence[str]) -> tuple[str, str | None]:
    """Return message and hint of the last error in ``lines``; both empty if there is none."""
    for index in range(len(lines) - 1, -1, -1):
        if found := _ERROR.fullmatch(lines[index].strip()):
            following = lines[index + 1] if index + 1 < len(lines) else ""
            hint = _HINT.fullmatch(following)
            return found[1], hint[1] if hint else None
    return "", None


def last_words(lines: Sequence[str]) -> str:
    """Return the last line that says something."""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    logged = _LOGGED.fullmatch(line)
    return logged[1].strip('"') if logged else line


def reason(lines: Sequence[str]) -> str:
    """Return in one line why a process ended: its last error, with the hint, or else the last that it said."""
    lines = [line for line in lines if not _CHATTER.match(line)]
    message, hint = said(lines)
    return f"{message} ({hint})" if message and hint else message or last_words(lines)


def logged_exit(lines: Sequence[str]) -> int | None:
    """Return the guest's exit status as the machine logged it, or ``None`` if it did not come to that.

    For a machine that an earlier orchestrator started: its status goes to init, not to us.
    """
    found = [match for line in lines if (match := _OFF.search(line))]
    return int(found[-1][1]) if found else None


def explain(config: Config | None, name: str, how: str, status: int | None, lines: Sequence[str]) -> BusvmError:
    """Return the error to raise about process ``name``, which ended (``how``) before the VM ran."""
    message, hint = said(lines)
    if not message:
        words = last_words(lines)
        message = f"{how} before the VM ran" + (f": {words}" if words else "")
        hint = f"`orchestrator logs {config.name if config else ''} {name}` shows all it said"
    kind = ConfigError if status == ConfigError.exit_status else HostError
    return kind(_place(config, name, message) + message, hint=hint)


def _place(config: Config | None, name: str, message: str) -> str:
    """Return ``file:line: key: ``, of the key whose value the message names if there is one."""
    if config is None:
        return f"{name}: "
    if name == CPU:
        if found := _LOAD.match(message):
            return f"{config.places.of('load', int(found[1]) - 1)}: "
        for key in ("kernel", "initrd", "firmware", "dtb", "flash0", "flash1"):
            value = getattr(config, key)
            if value is not None and str(value) in message:
                return f"{config.places.of('boot', key)}: boot.{key}: "
        return ""
    for index, device in enumerate(config.devices):
        if name == device.id + BACK_END:
            return f"{config.places.of('device', index, 'command')}: {name}: "
        if device.id != name:
            continue
        texts = {key: str(value) for key, value in device.options if value and not isinstance(value, (bool, int))}
        named = [key for key, text in texts.items() if text in message]
        if named:
            key = max(named, key=lambda key: len(texts[key]))  # one value may be part of another
            return f"{config.places.of('device', index, key)}: {name}.{key}: "
        return f"{config.places.of('device', index, 'id')}: {name}: "
    return f"{name}: "
