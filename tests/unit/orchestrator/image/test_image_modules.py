"""Kernel modules: what is read from them, the order of loading, and the index, read back as libkmod does."""

import fnmatch
import lzma
import struct

import pytest

from orchestrator.image import depmod, modules
from orchestrator.image.modules import Module


def elf(modinfo: bytes) -> bytes:
    """Return a smallest ELF64 file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    info_at, names_at = 64, 64 + len(modinfo)
    table_at = names_at + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, info_at, len(modinfo), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    return header + modinfo + names + sections


def lookup(data: bytes, key: str) -> list[str]:
    """Search an index as libkmod does, wildcards in its keys included."""
    magic, version, root = struct.unpack_from(">III", data)
    assert (magic, version) == (0xB007F457, 0x00020001)
    found: list[tuple[int, str]] = []

    def walk(offset: int, prefix: str) -> None:
        at = offset & 0x0FFFFFFF
        if offset & 0x80000000:
            end = data.index(0, at)
            prefix += data[at:end].decode()
            at = end + 1
        if offset & 0x20000000:
            first, last = data[at], data[at + 1]
            at += 2
            for byte in range(first, last + 1):
                (child,) = struct.unpack_from(">I", data, at)
                at += 4
                if child:
                    walk(child, prefix + chr(byte))
        if offset & 0x40000000:
            (count,) = struct.unpack_from(">I", data, at)
            at += 4
            for _ in range(count):
                (priority,) = struct.unpack_from(">I", data, at)
                end = data.index(0, at + 4)
                if fnmatch.fnmatchcase(key, prefix):
                    found.append((priority, data[at + 4 : end].decode()))
                at = end + 1

    walk(root, "")
    return [value for _, value in sorted(found)]


def test_module_name_of_a_file() -> None:
    assert modules.module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"


def test_parse_reads_the_modinfo_section() -> None:
    data = elf(b"license=GPL\0depends=jbd2,mb-cache\0softdep=pre: crypto-crc32c post: x\0alias=fs-ext4\0name=ext4\0")
    module = modules.parse("kernel/fs/ext4/ext4.ko.xz", data)

    assert module.name == "ext4"
    assert module.depends == ("jbd2", "mb_cache")
    assert module.before == ("crypto-crc32c",)
    assert module.aliases == ("fs-ext4",)


def test_parse_of_what_is_no_module_finds_nothing() -> None:
    assert modules.parse("x.ko", b"garbage\0depends=a\0").depends == ()


def test_parse_all_decompresses_and_reports() -> None:
    seen: list[int] = []
    plain = elf(b"depends=a\0")
    stored = {"m.ko": plain, "n.ko.xz": lzma.compress(plain)}
    found = modules.parse_all(stored, stored.__getitem__, seen.append)

    assert [module.depends for module in found] == [("a",), ("a",)]
    assert seen == [1, 2]


EXT4 = [
    Module("ext4", "ext4.ko", ("jbd2", "mbcache")),
    Module("jbd2", "jbd2.ko", before=("crypto-crc32c", "absent")),
    Module("mbcache", "mbcache.ko"),
    Module("crc32c_generic", "crc32c.ko", aliases=("crypto-crc32c",)),
    Module("unrelated", "unrelated.ko", ("missing",)),
]


def test_load_order_puts_everything_behind_what_it_needs() -> None:
    order = [module.name for module in modules.load_order(["ext4"], EXT4, set())]
    assert order == ["crc32c_generic", "jbd2", "mbcache", "ext4"]


def test_load_order_leaves_out_what_is_built_in() -> None:
    order = modules.load_order(["virtio-pci", "ext4"], EXT4, {"virtio_pci", "jbd2"})
    assert [module.name for module in order] == ["mbcache", "ext4"]


@pytest.mark.parametrize("wanted", ["nothing", "unrelated"])
def test_load_order_of_a_missing_module_raises(wanted: str) -> None:
    with pytest.raises(KeyError):
        modules.load_order([wanted], EXT4, set())


def test_index_finds_each_key_and_no_other() -> None:
    keys = ["a", "abc", "abd", "b", "virtio_blk", "virtio_net", "x"]
    data = depmod.index((key, f"value of {key}") for key in keys)

    assert all(lookup(data, key) == [f"value of {key}"] for key in keys)
    assert lookup(data, "ab") == []


def test_index_of_nothing_is_empty() -> None:
    assert lookup(depmod.index([]), "a") == []


def test_index_keeps_the_order_of_equal_keys() -> None:
    assert lookup(depmod.index([("k", "first"), ("k", "second")]), "k") == ["first", "second"]


def test_dependency_lines_name_last_what_is_loaded_first() -> None:
    found = [Module("a", "a.ko", ("b",)), Module("b", "b.ko", ("c",)), Module("c", "c.ko")]
    assert dict(depmod.dependency_lines(found))["a"] == "a.ko: b.ko c.ko"


def test_files_find_a_module_by_the_alias_of_its_device() -> None:
    found = [
        Module("virtio_net", "net.ko", aliases=("virtio:d00000001v*",)),
        Module("tun", "tun.ko", aliases=("devname:net/tun", "char-major-10-200")),
    ]
    files = depmod.files(found, ["kernel/drivers/virtio/virtio-pci.ko"], b"virtio_pci.alias=pci:v00001AF4d*\0")

    assert lookup(files["modules.alias.bin"], "virtio:d00000001v00001AF4") == ["virtio_net"]
    assert lookup(files["modules.builtin.bin"], "virtio_pci") == [""]
    assert lookup(files["modules.builtin.alias.bin"], "pci:v00001AF4d00001041") == ["virtio_pci"]
    assert files["modules.devname"] == b"tun net/tun c10:200\n"


def test_normal_alias_keeps_ranges() -> None:
    assert depmod.normal_alias("of:N*T*Ca-b[0-9]-c") == "of:N*T*Ca_b[0-9]_c"
