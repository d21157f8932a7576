"""``render``: a VM for container engines, as a Compose file or a Pod of Kubernetes."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from orchestrator import config as vm_config
from orchestrator.commands.up import file_meant
from protocol.errors import HostError

_NOTES = {
    "compose": "The guest's console: compose exec cpu orchestrator console {vm}",
    "kubernetes": "The guest's console: kubectl exec -it {vm} -c cpu -- orchestrator console {vm}",
}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "render",
        help="write a VM as containers: compose, kubernetes",
        description="Write what runs the VM of FILE with one container per process (docs/containers.md): a Compose "
        "file, or one Pod of Kubernetes. What has no place in containers is refused.",
    )
    parser.add_argument("engine", choices=tuple(_NOTES), help="what is to run it")
    parser.add_argument("file", nargs="?", metavar="FILE", type=Path, help="vm.toml, or a folder with one")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="instead of standard output")
    parser.add_argument("--image", metavar="NAME", default="busvm", help="the containers' image; default: %(default)s")
    parser.add_argument("--user", metavar="UID", type=int, default=1000, help="the image's user; default: %(default)s")
    parser.add_argument("--claim", metavar="NAME", help="kubernetes: take files from this PersistentVolumeClaim")
    parser.add_argument("--name", help="name of the VM, instead of vm.name")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="such as vm.memory=1G")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from orchestrator.render.compose import compose, folder_of
    from orchestrator.render.contained import contain
    from orchestrator.render.kubernetes import pod
    from orchestrator.render.text import text

    config = vm_config.load(file_meant(options.file), options.set, name=options.name)
    contained = contain(config, publish=options.engine == "compose")
    folder = folder_of(options.output)
    if options.engine == "compose":
        value = compose(contained, image=options.image, user=options.user, folder=folder)
    else:
        value = pod(contained, image=options.image, user=options.user, claim=options.claim)
    written = text(value, _comment(options, folder, config.file, config.name))
    try:
        if options.output is None:
            sys.stdout.write(written)
        else:
            options.output.write_text(written, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {options.output}: {error.strerror}") from error
    return 0


def _comment(options: argparse.Namespace, folder: Path, file: Path | None, name: str) -> str:
    """Return how it was made, as one would say it in ``folder``."""
    words: list[Any] = ["orchestrator", "render", options.engine]
    words += [os.path.relpath(file, folder)] if file else []
    words += ["-o", options.output.name] if options.output else []
    words += ["--image", options.image] if options.image != "busvm" else []
    words += ["--user", options.user] if options.user != 1000 else []
    words += ["--claim", options.claim] if options.claim else []
    words += ["--name", options.name] if options.name else []
    words += [word for setting in options.set for word in ("--set", setting)]
    lines = (
        f"Written by: {shlex.join(map(str, words))}",
        "The image is built from the Containerfile; docs/containers.md.",
        _NOTES[options.engine].format(vm=name),
    )
    return "\n".join(lines)
