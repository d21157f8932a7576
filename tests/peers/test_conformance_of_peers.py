"""The conformance kit against vhost-user daemons of others, as their authors would run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
STORAGE_DAEMON = (
    "qemu-storage-daemon --blockdev driver=file,node-name=f,filename={image} "
    "--export type=vhost-user-blk,id=e,addr.type=unix,addr.path={socket},node-name=f,writable=on,num-queues=2"
)
# what is known of qemu-storage-daemon 7.2; docs/conformance.md has the table for people
DEVIATIONS = {
    "test_any_bytes_on_the_socket": "GET_VRING_BASE of a ring that is not there is an assertion",
    "test_config_space_is_read_from_any_offset": "GET_CONFIG always answers from offset 0",
}
AT_TIMES = {
    "test_rings_in_places_that_are_none": "a segmentation fault, when a request was looked for meanwhile",
    "test_a_reset_under_load_ends_all_access_to_memory": "GET_VRING_BASE does not wait for reads under way",
}
NOT_OFFERED = {"packed", "packed-indirect-event_idx", "VIRTIO_F_RING_PACKED", "VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD"}


@pytest.mark.timeout(200)
def test_the_storage_daemon_of_qemu(tmp_path: Path) -> None:
    assert shutil.which("qemu-storage-daemon"), "not installed (Debian: apt-get install qemu-system-common)"
    results = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", "tests/conformance", "--device", STORAGE_DAEMON, f"--junitxml={results}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)

    cases = list(ElementTree.parse(results).iter("testcase"))
    failures = [
        (case, found) for case in cases for what in ("failure", "error") if (found := case.find(what)) is not None
    ]
    bad = {case.get("name", "").partition("[")[0] for case, _ in failures}
    skipped = {found.get("message", "") for case in cases if (found := case.find("skipped")) is not None}
    assert len(cases) > 70, done.stdout + done.stderr
    assert set(DEVIATIONS) <= bad <= {*DEVIATIONS, *AT_TIMES}, done.stdout
    assert {reason.partition("does not offer ")[2] for reason in skipped} == NOT_OFFERED
    assert all(" | sent: " in found.get("message", "") for _, found in failures), done.stdout
