"""The table of keys, its documentation, and the JSON schema are one."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator import schema
from orchestrator.commands.describe import resolved, toml
from orchestrator.config import load
from orchestrator.table_of_keys import renewed

DOCS = Path(__file__).parents[3] / "docs"


def test_the_documentation_has_the_table_of_keys() -> None:
    assert schema.markdown() in (DOCS / "vm-toml.md").read_text()


def test_the_table_is_written_anew_in_its_place() -> None:
    text = (DOCS / "vm-toml.md").read_text()
    assert renewed(text) == text
    assert renewed(text.replace("| `vm.cpus` |", "| `vm.old` |")) == text


def test_every_device_key_of_a_type_becomes_an_option() -> None:
    assert [key.name for key in schema.KEYS if key.types and not key.option] == [
        "command",  # which is a process
        "hub",  # which is a place
        "server",  # likewise
        "server",
    ]


def test_json_schema_has_every_key() -> None:
    properties = schema.json_schema()["properties"]

    for key in schema.KEYS:
        table = properties if not key.table else properties[key.table]
        table = table.get("items", table) if key.table else {"properties": table}
        assert key.name in table["properties"]
        shown = table["properties"][key.name]
        assert key.doc in [one["description"] for one in shown.get("anyOf", [shown])]
    assert properties["device"]["items"]["required"] == ["id", "type"]


def test_the_resolved_configuration_gives_the_same_vm(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    file = tmp_path / "vm.toml"
    file.write_text(
        '[vm]\nname = "x"\n'
        '[boot]\ncmdline = "a=\\"b\\" ü"\n'
        + '[[load]]\nfile = "disk.img"\naddress = 0x80300000\nforce-raw = true\n'
        + '[[fw-cfg]]\nname = "opt/x"\nstring = "y"\n'
        + '[[device]]\nid = "d"\ntype = "virtio-blk"\nimage = "disk.img"\nargs = ["--direct"]\nreadonly = true\n'
        + '[[device]]\nid = "m"\ntype = "python:mine"\nstart = "attach"\n'
        + '[[service]]\nid = "shared"\ntype = "ivshmem-server"\nsize = "1M"\nsocket = "s"\n'
        + '[[device]]\nid = "f"\ntype = "ivshmem-flat"\nserver = "shared"\nreadonly = true\n'
        + '[[device]]\nid = "g"\ntype = "ivshmem-doorbell"\nserver = "x/y"\nbus = "pcie"\nplugged = false\n'
    )
    first = load(file)
    again = tmp_path / "again.toml"
    again.write_text(toml(resolved(first)))

    second = load(again)

    assert second.services == first.services
    assert (second.name, second.memory, second.cmdline, second.devices, second.loads, second.files) == (
        first.name,
        first.memory,
        first.cmdline,
        first.devices,
        first.loads,
        first.files,
    )


def test_the_examples_are_valid(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    shutil.copytree(DOCS.parent / "examples", examples)
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))  # which their first lines say how to make
    (tmp_path / "images" / "debian").mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img", "root.ext4"):
        (tmp_path / "images" / "debian" / name).touch()
    for path in examples.rglob("*.toml"):
        assert load(path).file == path
