"""A program from a device's class alone: ``run(Rng)`` in a ``__main__``, or ``python -m devproc MODULE:CLASS``.

What the program offers follows from the class: its options from the configuration that ``__init__`` takes, its
transports from its base, its description from its docstring.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import sys
from typing import Any, get_type_hints

from devproc.device import Device
from devproc.host import Commands, Program, main
from devproc.options import add_options, configured
from devproc.virtio import TRANSPORTS, VirtioDevice
from protocol.errors import ConfigError


def program_of(device: type[Device], *, name: str | None = None) -> Program:
    """Return the program of a class; ``name`` is its type on the bus, in small letters that of the class if not given.

    Raises:
        TypeError: ``__init__`` needs more than a configuration.
    """
    config = config_of(device)
    virtio = issubclass(device, VirtioDevice)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        if config is not None:
            add_options(parser, config)

    def open_device(options: argparse.Namespace) -> Device:
        made = device.over(options.transport) if issubclass(device, VirtioDevice) else device
        given: list[Any] = [configured(config, options)] if config is not None else []
        return made(*given)

    return Program(
        type=name or device.__name__.lower(),
        description=(inspect.getdoc(device) or device.__name__).splitlines()[0],
        open=open_device,
        add_arguments=add_arguments,
        transports=tuple(TRANSPORTS) if virtio else (device.transport,),
        poke=virtio_commands if virtio else None,
        vhost_user=virtio,
        device=device,
    )


def virtio_commands(device: Device) -> Commands:
    """Return what the prompt of any virtio device has."""
    from devproc.virtio_driver import Driver, commands  # only for a prompt

    assert isinstance(device, VirtioDevice)
    return commands(Driver(device))


def config_of(device: type[Device]) -> type | None:
    """Return the configuration that ``__init__`` takes first, or ``None``.

    Raises:
        TypeError: it needs more, or something else.
    """
    parameters = list(inspect.signature(device).parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    first = get_type_hints(device.__init__).get(parameters[0].name) if parameters else None
    if dataclasses.is_dataclass(first) and needed in ([], parameters[:1]):
        return first  # type: ignore[return-value]
    if needed:
        names = ", ".join(p.name for p in needed)
        raise TypeError(f"{device.__name__}({names}): a device is made from one configuration, a dataclass, or nothing")
    return None


def find(name: str) -> type[Device]:
    """Return the class that ``MODULE:CLASS`` names.

    Raises:
        ConfigError: there is none, or it is no device.
    """
    module, _, member = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), member)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise  # something that it needs is missing
        raise ConfigError(f"no module {module!r}", hint=f"in {sys.path[0] or '.'}, or installed") from error
    except AttributeError as error:
        raise ConfigError(f"no class {member!r} in {module}") from error
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise ConfigError(f"{name} is no device", hint="derive it from PciDevice, VirtioDevice or PlatformDevice")
    return found


def run(device: type[Device], *, name: str | None = None) -> int:
    """Run the program of ``device`` with this process's arguments; return the exit status."""
    return main(program_of(device, name=name))
