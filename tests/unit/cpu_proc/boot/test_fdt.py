"""The device tree: its bytes against dtc, and its content against the tree of QEMU's ``virt``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cpu_proc.boot.fdt import BrokenTree, Node, Tree, cells64, flatten, parse
from cpu_proc.boot.tree import Description, build

DTC, QEMU = "dtc", "qemu-system-riscv64"
MEMORY = 512 << 20


def need(program: str, package: str) -> str:
    """Return the path of a program."""
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is missing: apt-get install {package} (.ci/run does)")
    return found


def source_of(blob: bytes, folder: Path) -> tuple[str, set[str]]:
    """Return dtc's text for a blob, and the kinds of its warnings with their nodes."""
    path = folder / "tree.dtb"
    path.write_bytes(blob)
    command = [need(DTC, "device-tree-compiler"), "-I", "dtb", "-O", "dts", "-s", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    warnings = set(re.findall(r"Warning \((\w+)\): ([^:\s]+)", done.stderr))
    return done.stdout, {f"{kind} {node}" for kind, node in warnings}


def test_every_kind_of_value_reads_back(tmp_path: Path) -> None:
    root = Node()
    child = root.child(
        "node@1", device_type="kind", reg=[1, 0xFFFF_FFFF], riscv__flag=None, some_text="text", one=7, data=b"\1\2\3"
    )
    child.properties["texts"] = ["a", "bc"]
    child.properties["wide"] = cells64(0x1_2345_6789, 1)
    child.child("inner")
    text = source_of(flatten(root), tmp_path)[0]
    for line in (
        'device_type = "kind";',
        "reg = <0x01 0xffffffff>;",
        "riscv,flag;",
        'some-text = "text";',
        "one = <0x07>;",
        "data = [01 02 03];",
        'texts = "a\\0bc";',
        "wide = <0x01 0x23456789 0x00 0x01>;",
        "inner {",
    ):
        assert line in text


def test_header_names_the_boot_hart(tmp_path: Path) -> None:
    blob = flatten(Node(), boot_hart=5)
    assert int.from_bytes(blob[28:32], "big") == 5
    assert int.from_bytes(blob[4:8], "big") == len(blob)


def sample() -> Tree:
    """Return a tree with something of everything."""
    root = Node({"model": "x", "empty": None})
    root.child("one@1", reg=[1, 2]).child("inner", text="a")
    root.child("two")
    return Tree(root, ((0x8000_0000, 0x1000), (0x9000_0000, 1)), 2)


def test_a_blob_reads_back() -> None:
    blob = sample().flatten()
    again = parse(blob + b"behind")
    assert again.flatten() == blob
    assert again.root.properties == {"model": b"x\0", "empty": b""}
    assert again.root.children["one@1"].children["inner"].properties == {"text": b"a\0"}
    assert (again.reservations, again.boot_hart) == (sample().reservations, 2)


@pytest.mark.peer
def test_qemus_tree_reads_back_as_dtc_reads_it(tmp_path: Path) -> None:
    qemu_tree(tmp_path)
    blob = (tmp_path / "qemu.dtb").read_bytes()
    assert source_of(parse(blob).flatten(), tmp_path)[0] == source_of(blob, tmp_path)[0]


@pytest.mark.parametrize(
    ("at", "word", "said"),
    [
        (0, 1, "begins with"), (4, 1 << 30, "truncated"), (8, 1 << 30, "outside"), (8, 57, "outside"),
        (12, 1 << 30, "outside"), (16, 1 << 30, "no end"), (20, 3, "version"), (24, 18, "version"),
        (32, 1 << 30, "outside"), (36, 1 << 30, "outside"), (36, 8, "middle"), (36, 0, "middle"),
    ],
)  # fmt: skip
def test_a_damaged_header_is_named(at: int, word: int, said: str) -> None:
    blob = bytearray(sample().flatten())
    blob[at : at + 4] = word.to_bytes(4, "big")
    with pytest.raises(BrokenTree, match=said):
        parse(bytes(blob))


def test_trees_too_deep_or_with_a_node_twice_are_refused() -> None:
    root = node = Node()
    for _ in range(70):
        node = node.child("n")
    with pytest.raises(BrokenTree, match="deep"):
        parse(flatten(root))
    root = Node()
    root.child("n1")
    root.child("n2")
    with pytest.raises(BrokenTree, match="twice"):
        parse(flatten(root).replace(b"n2", b"n1"))


@settings(deadline=None, max_examples=300)
@given(some.lists(some.tuples(some.integers(0, 250), some.integers(0, 255)), max_size=4), some.integers(0, 300))
def test_a_broken_blob_is_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    blob = bytearray(sample().flatten())
    for at, value in changes:
        if at < len(blob):
            blob[at] = value
    try:
        parse(bytes(blob[: len(blob) - cut] if cut < 200 else blob)).flatten()
    except BrokenTree:
        pass


def tree(folder: Path, **options: object) -> tuple[str, set[str]]:
    """Return text and warnings of this machine's tree."""
    return source_of(flatten(build(Description(1, MEMORY, **options))), folder)  # type: ignore[arg-type]


def qemu_tree(folder: Path, aia: str = "aplic-imsic") -> tuple[str, set[str]]:
    """Return text and warnings of QEMU's."""
    path = folder / "qemu.dtb"
    machine = f"virt,aia={aia},dumpdtb={path}"
    command = [need(QEMU, "qemu-system-misc"), "-M", machine, "-m", "512M", "-display", "none"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    return source_of(path.read_bytes(), folder)


def properties(text: str) -> dict[str, dict[str, str]]:
    """Return the properties by node path."""
    found: dict[str, dict[str, str]] = {}
    path: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if line.endswith("{"):
            path.append(line[:-1].strip())
            found["/".join(path)[1:] or "/"] = {}
        elif line == "};":
            path.pop()
        elif path and line:
            name, _, value = line.rstrip(";").partition(" = ")
            found["/".join(path)[1:] or "/"][name] = value
    return found


PLIC = {"interrupts": "plic", "flash": True}
FOR_FIRMWARE = {"machine_level": True, "flash": True}


@pytest.mark.peer
@pytest.mark.parametrize("options", [{}, PLIC, FOR_FIRMWARE], ids=["plain", "plic", "firmware"])
def test_no_warning_that_qemus_tree_does_not_have(tmp_path: Path, options: dict[str, object]) -> None:
    ours = tree(tmp_path, cmdline="quiet", initrd=(0x8800_0000, 0x8900_0000), **options)[1]
    theirs = {warning.split(" ")[0] for warning in qemu_tree(tmp_path)[1]}
    assert {warning for warning in ours if warning.split(" ")[0] not in theirs} == set()


SAME = {
    "/memory@80000000": ("device_type", "reg"),
    "/cpus": ("timebase-frequency", "#address-cells", "#size-cells"),
    "/cpus/cpu@0": ("device_type", "reg", "status", "compatible"),
    "/cpus/cpu@0/interrupt-controller": ("compatible", "#interrupt-cells", "interrupt-controller"),
    "/soc": ("compatible", "ranges", "#address-cells", "#size-cells"),
    "/soc/serial@10000000": ("compatible", "clock-frequency", "reg"),
    "/soc/rtc@101000": ("compatible", "reg"),
    "/soc/test@100000": ("compatible", "reg"),
    "/soc/pci@30000000": (
        "compatible", "device_type", "reg", "bus-range", "linux,pci-domain", "dma-coherent", "ranges",
        "#address-cells", "#size-cells", "#interrupt-cells", "interrupt-map-mask",
    ),
    "/soc/virtio_mmio@10001000": ("compatible", "reg"),
    "/soc/virtio_mmio@10008000": ("compatible", "reg"),
    "/poweroff": ("compatible", "offset", "value"),
    "/reboot": ("compatible", "offset", "value"),
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("node", SAME)
def test_node_says_what_qemus_says(tmp_path: Path, node: str) -> None:
    ours, theirs = properties(tree(tmp_path)[0]), properties(qemu_tree(tmp_path)[0])
    # QEMU spells strings in quotes or as bytes, depending on their content; compatible lists differ by vendor
    assert node in theirs
    for name in SAME[node]:
        assert ours[node].get(name) == theirs[node].get(name), name


@pytest.mark.peer
@pytest.mark.parametrize(("options", "aia", "width"), [({}, "aplic-imsic", 7), (PLIC, "none", 6)], ids=["aia", "plic"])
def test_interrupt_map_routes_as_qemus_does(tmp_path: Path, options: dict[str, object], aia: str, width: int) -> None:
    """Row by row, but for the handle of the controller."""
    rows = []
    for text, _warnings in (tree(tmp_path, **options), qemu_tree(tmp_path, aia)):
        cells = [int(cell, 0) for cell in properties(text)["/soc/pci@30000000"]["interrupt-map"].strip("<>").split()]
        rows.append([cells[i : i + 4] + cells[i + 5 : i + width] for i in range(0, len(cells), width)])
    assert rows[0] == rows[1]


@pytest.mark.peer
def test_controllers_say_what_qemus_say(tmp_path: Path) -> None:
    """The PLIC, flash and fw_cfg, and of M mode the APLIC and IMSIC (QEMU 7.2 names these nodes otherwise)."""
    ours, theirs = properties(tree(tmp_path, **PLIC)[0]), properties(qemu_tree(tmp_path, "none")[0])
    for node, names in {
        "/soc/plic@c000000": ("compatible", "reg", "#interrupt-cells", "#address-cells", "interrupt-controller"),
        "/flash@20000000": ("compatible", "reg", "bank-width"),
        "/fw-cfg@10100000": ("compatible", "reg", "dma-coherent"),
    }.items():
        assert {name: ours[node][name] for name in names} == {name: theirs[node][name] for name in names}
    for node in ("serial@10000000", "virtio_mmio@10001000", "virtio_mmio@10008000"):
        assert ours[f"/soc/{node}"]["interrupts"] == theirs[f"/soc/{node}"]["interrupts"]
    assert "msi-parent" not in ours["/soc/pci@30000000"]
    assert "aia" not in ours["/cpus/cpu@0"]["riscv,isa"]
    ours, theirs = properties(tree(tmp_path, **FOR_FIRMWARE)[0]), properties(qemu_tree(tmp_path)[0])
    for kind, base, names in (
        ("imsics", "24000000", ("reg", "#interrupt-cells", "riscv,num-ids", "interrupt-controller")),
        ("aplic", "c000000", ("reg", "#interrupt-cells", "riscv,num-sources", "interrupt-controller")),
    ):
        mine, its = ours[f"/soc/interrupt-controller@{base}"], theirs[f"/soc/{kind}@{base}"]
        assert {name: mine[name] for name in names} == {name: its[name] for name in names}
    domain = ours["/soc/interrupt-controller@c000000"]
    child = ours["/soc/interrupt-controller@d000000"]["phandle"].strip("<>")
    assert domain["riscv,children"] == f"<{child}>"
    assert domain["riscv,delegate"] == domain["riscv,delegation"] == f"<{child} 0x01 0x5f>"


@pytest.mark.parametrize("options", [{}, PLIC, FOR_FIRMWARE], ids=["plain", "plic", "firmware"])
def test_handles_point_at_nodes(tmp_path: Path, options: dict[str, object]) -> None:
    nodes = properties(tree(tmp_path, **options)[0])
    handles = {values["phandle"]: path for path, values in nodes.items() if "phandle" in values}
    assert len(handles) == sum("phandle" in values for values in nodes.values())
    for values in nodes.values():
        for name in ("interrupt-parent", "msi-parent", "cpu", "regmap"):
            if name in values:
                assert values[name] in handles


def test_chosen_says_what_was_asked_for(tmp_path: Path) -> None:
    wishes = {"cmdline": "root=/dev/vda quiet", "initrd": (0x8800_0000, 0x1_0000_0000), "seed": b"\xa5" * 32}
    chosen = properties(tree(tmp_path, **wishes)[0])["/chosen"]
    assert chosen["bootargs"] == '"root=/dev/vda quiet"'
    assert chosen["linux,initrd-start"] == "<0x00 0x88000000>"
    assert chosen["linux,initrd-end"] == "<0x01 0x00>"
    assert chosen["stdout-path"] == '"/soc/serial@10000000"'
    bare = properties(tree(tmp_path)[0])["/chosen"]
    assert "bootargs" not in bare
    assert "linux,initrd-start" not in bare
    assert chosen["rng-seed"] == f"<{' '.join(['0xa5a5a5a5'] * 8)}>"
