"""The runner of architecture tests compares signatures, and builds what is meant for this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.peers import arch_test
from tests.peers.test_isa_runner import assemble
from tests.unit.cpu_proc.harness import Bench

SIGNATURE = """
    sd a0, 0(a1)
    .pushsection .data
    .balign 8
    .globl begin_signature, end_signature
begin_signature: .word 0x11, 0x22, 0x33, 0x44
end_signature: .dword 0
    .popsection
"""


@pytest.fixture(scope="module", params=[INTERPRETER, TRANSLATOR])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a hart with room for the programs."""
    bench = Bench(16 << 20, request.param)
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ((0x11, 0x22, 0x33, 0x44), ""),
        ((0x11, 0x23, 0x33, 0x45), "2 of 4 words, first 1: 0x00000023 on Spike, 0x00000022 here"),
        ((0x11, 0x22), "2 words on Spike, 4 here"),
    ],
)
def test_signature_is_compared(bench: Bench, tmp_path: Path, reference: tuple[int, ...], complaint: str) -> None:
    program = assemble(tmp_path, "signed", value=1, action=SIGNATURE)
    program.with_name("signed.signature").write_text("".join(f"{word:08x}\n" for word in reference))
    assert arch_test.run(bench, program) == complaint


def test_conditions_choose_what_is_built() -> None:
    def source(condition: str) -> str:
        return f'RVTEST_CASE(0,"//{condition};def TEST_CASE_1=True;",name)'

    assert arch_test.definitions(source("check ISA:=regex(.*64.*); check ISA:=regex(.*I.*Zbb.*)")) == [
        "TEST_CASE_1=True"
    ]
    assert arch_test.definitions(source("check ISA:=regex(.*RV64.*I.*Zvk.*)")) == []
    assert arch_test.definitions(source("check ISA:=regex(^[^C]+$)")) == []
    assert arch_test.definitions(source("check ISA:=regex(.*I.*); check hw_data_misaligned_support:=False")) == []


def test_command_counts_by_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, last in (("rv64i_m-B-one", 0x44), ("rv64i_m-B-two", 0x45)):
        assemble(tmp_path, name, value=1, action=SIGNATURE)
        (tmp_path / f"{name}.signature").write_text(f"11\n22\n33\n{last:x}\n")
    assemble(tmp_path, "rv64i_m-B-three", value=1)
    assert arch_test.main(["run", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["rv64i_m-B: 1 of 2"]
    assert arch_test.main(["run", str(tmp_path), "--match", "*-one"]) == 0
