"""What is run in the guest: each row a command, and the number in its output that counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

INTEGER, OTHER = 1.5, 1.0  # times QEMU: CPU-bound programs on integers, and everything else
PACKAGES = ("sysbench", "openssl", "stress-ng", "python3", "fio", "iperf3")
COREMARK = "coremark"


@dataclass(frozen=True)
class Row:
    """One workload; ``pattern`` has one group, the figure. More is better. ``alone``: only the hart works for it."""

    name: str
    title: str
    command: str
    pattern: str
    unit: str
    goal: float
    alone: bool = True

    def figure(self, output: str) -> float:
        """Return the figure in what the command printed.

        Raises:
            LookupError: there is none.
        """
        found = re.search(self.pattern, output, re.MULTILINE)
        if found is None:
            raise LookupError(f"{self.name} printed no figure")
        return float(found[1])


def _openssl(algorithm: str) -> tuple[str, str]:
    return f"openssl speed -elapsed -evp {algorithm} -bytes 8192 -seconds 2", rf"(?i)^{algorithm} +([\d.]+)k$"


def _stress_ng(stressor: str, options: str) -> tuple[str, str]:
    columns = r"\d+ +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+) "  # bogo operations, three times, operations per second
    return f"stress-ng {options} --timeout 2 --metrics-brief", rf"metrc: \[\d+\] {stressor} +{columns}"


def _loop(name: str) -> tuple[str, str]:
    return f"python3 /usr/local/bin/loops.py {name} 2", _PER_SECOND


_PER_SECOND = r"^per second: ([\d.]+)"
_FIO = (
    "dd if=/dev/vda of=/dev/null bs=1M count=256 iflag=direct status=none && "  # so that the host has it in memory
    "fio --name=read --filename=/dev/vda --readonly --rw=randread --bs=4k --iodepth=32 --ioengine=libaio --direct=1 "
    "--size=256M --time_based --runtime=2 --output-format=terse --terse-version=3"
)

ROWS = (
    Row(COREMARK, "CoreMark", "coremark_for 2", r"^Iterations/Sec *: ([\d.]+)", "1/s", INTEGER),
    Row("sysbench", "sysbench cpu", "sysbench cpu --time=2 run", r"events per second: +([\d.]+)", "1/s", INTEGER),
    Row("sha256", "openssl speed sha256", *_openssl("sha256"), "kB/s", INTEGER),
    Row("aes", "openssl speed aes-128-cbc", *_openssl("aes-128-cbc"), "kB/s", INTEGER),
    Row("int64", "stress-ng cpu, int64", *_stress_ng("cpu", "--cpu 1 --cpu-method int64"), "1/s", INTEGER),
    Row("double", "stress-ng cpu, double", *_stress_ng("cpu", "--cpu 1 --cpu-method double"), "1/s", OTHER),
    Row("matrix", "stress-ng matrix", *_stress_ng("matrix", "--matrix 1"), "1/s", OTHER),
    Row("python", "python3 -c pass", "repeat 2 python3 -c pass", _PER_SECOND, "1/s", OTHER),
    Row("python-bare", "python3 -S -E -c pass", "repeat 2 python3 -S -E -c pass", _PER_SECOND, "1/s", OTHER),
    Row("fannkuch", "Python: fannkuch (integers, lists)", *_loop("fannkuch"), "1/s", INTEGER),
    Row("words", "Python: words (dictionaries, strings)", *_loop("words"), "1/s", INTEGER),
    Row("nbody", "Python: n bodies (floating point)", *_loop("nbody"), "1/s", OTHER),
    Row(
        "fio", "fio 4 KiB random read, depth 32", _FIO, r"^3;(?:[^;]*;){6}(\d+);", "IOPS", OTHER, alone=False,
    ),
    Row(
        "iperf3", "iperf3 over loopback (there is no NIC)", "iperf3 -c 127.0.0.1 -t 2 -f m",
        r"([\d.]+) Mbits/sec +receiver", "Mbit/s", OTHER,
    ),
)  # fmt: skip
