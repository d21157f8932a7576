"""``--load`` and ``--fw-cfg``: what each says, and what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.boot import config
from cpu_proc.boot.config import Load
from protocol.errors import ConfigError
from tests.unit.cpu_proc.harness import RAM


def test_a_comma_within_a_value_is_written_twice() -> None:
    assert config.pairs("--x", "a=1,,2,,,b,c=", ("a", "b", "c")) == {"a": "1,2,", "b": "true", "c": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file=/x/a.elf", Load("load 1 (a.elf)", file=Path("/x/a.elf"))),
        (
            "file=a,,b,address=0x80300000,force-raw,cpu=1",
            Load("load 1 (a,b)", address=0x8030_0000, file=Path("a,b"), force_raw=True, cpu=1),
        ),
        ("address=0x80000000,value=0x1234,size=2", Load("load 1", address=RAM, value=0x1234, size=2)),
        ("address=2147483648,cpu=0", Load("load 1", address=RAM, cpu=0)),
        (
            "kernel=Image,address=0x80000000,bootargs=a=b c",
            Load("load 1 (Image)", address=RAM, kernel=Path("Image"), bootargs="a=b c"),
        ),
        ("initrd=i,address=0x80000000", Load("load 1 (i)", address=RAM, initrd=Path("i"))),
    ],
)
def test_loads(text: str, expected: Load) -> None:
    assert config.load(1, text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fiel=x", "'fiel' is none of file"),
        ("file=x,file=y", "'file' is there twice"),
        ("address=1", "one of file"),
        ("file=x,value=1,size=1,address=0", "one of file"),
        ("value=1,size=1", "address is missing"),
        ("kernel=x", "address is missing"),
        ("cpu=0", "address is missing"),
        ("address=0,value=1", "size of 1 to 8"),
        ("address=0,value=256,size=1", "size of 1 to 8"),
        ("address=0,value=-1,size=8", "size of 1 to 8"),
        ("address=0,value=1,size=9", "size of 1 to 8"),
        ("address=here,cpu=0", "address=here is no number"),
        ("file=x,size=3", "size does not go with file"),
        ("address=0,value=1,size=1,cpu=0", "cpu does not go with value"),
        ("initrd=x,address=0,bootargs=y", "bootargs does not go with initrd"),
    ],
)
def test_a_load_that_makes_no_sense_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(2, text)
    assert said in caught.value.message
    assert "load 2" in caught.value.message


def test_fw_cfg_files() -> None:
    assert config.fw_cfg_file("name=opt/a,string=x=1,,2") == ("opt/a", "x=1,2")
    assert config.fw_cfg_file("name=opt/a,file=/b") == ("opt/a", Path("/b"))
    for text in ("name=opt/a", "name=opt/a,file=x,string=y", "string=x", f"name={'n' * 56},string=x", "name=ü,string="):
        with pytest.raises(ConfigError, match="55 ASCII"):
            config.fw_cfg_file(text)
