"""The private dbus-daemon of a VM: its configuration, and ``python -m orchestrator.bus_daemon --vm NAME`` alone.

Only this user gets in: the socket is in a private folder, EXTERNAL is the one way to authenticate, and the policy
refuses every other uid. A daemon knows users, not processes: the policy lets nobody have names but those of a VM, and
nobody listen to what others say to each other, descriptors included, unless ``vm.bus-monitor`` lets all of them. Who
of a VM may call what the called decide (``protocol.access``). Limits are far above the session bus's, because a machine
passes descriptors by the dozen and a device's page of properties may be large.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from html import escape

from orchestrator import folder, output, plan
from protocol.errors import BusvmError, HostError
from protocol.names import Runtime

_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <deny user="*"/>
    <allow user="{uid}"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*" eavesdrop="false"/>
    <{monitor} send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="ReloadConfig"/>
    <deny own="*"/>
    <allow own="org.busvm.machine"/>
    <allow own_prefix="org.busvm.device"/>
    <allow own_prefix="org.busvm.hub"/>
    <allow own_prefix="org.busvm.ivshmem"/>
    <allow own="org.qemu.VMState1"/>
  </policy>
  <limit name="max_incoming_bytes">268435456</limit>
  <limit name="max_outgoing_bytes">268435456</limit>
  <limit name="max_message_size">134217728</limit>
  <limit name="max_incoming_unix_fds">4096</limit>
  <limit name="max_outgoing_unix_fds">4096</limit>
  <limit name="max_message_unix_fds">1024</limit>
  <limit name="max_completed_connections">2048</limit>
  <limit name="max_connections_per_user">2048</limit>
  <limit name="max_match_rules_per_connection">8192</limit>
  <limit name="max_replies_per_connection">8192</limit>
  <limit name="reply_timeout">2147483647</limit>
</busconfig>
"""


def config_text(runtime: Runtime, *, monitor: bool = False) -> str:
    """Return the configuration file; with ``monitor`` everybody on the bus may listen to it."""
    may = "allow" if monitor else "deny"
    return _CONFIG.format(socket=escape(str(runtime.bus_socket)), uid=os.getuid(), monitor=may)


def prepare(runtime: Runtime, *, monitor: bool = False) -> None:
    """Write the configuration file, and take a dead daemon's socket away.

    Raises:
        HostError: there is no dbus-daemon, or the folder cannot be written.
    """
    if shutil.which("dbus-daemon") is None:
        raise HostError("the program dbus-daemon is missing", hint="on Debian and Ubuntu: apt install dbus")
    with folder.writing(runtime):
        runtime.bus_socket.unlink(missing_ok=True)
        path, text = runtime.folder / "bus.conf", config_text(runtime, monitor=monitor)
        if not path.exists() or path.read_text() != text:  # a bus that comes back needs no room on the disk
            path.write_text(text)


def main(arguments: list[str] | None = None) -> int:  # noqa: RET503 - execvp does not come back
    """Become the dbus-daemon of one VM, in the foreground: for those who start every process themselves."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.bus_daemon", description="The private bus of a VM.")
    parser.add_argument("--vm", metavar="NAME", required=True, help="name of the VM")
    parser.add_argument("--monitor", action="store_true", help="let everybody on it listen (vm.bus-monitor)")
    parser.add_argument("--print-address", action="store_true", help="print the bus's address when it is ready")
    options = parser.parse_args(arguments)
    runtime = output.runtime_of(parser, options.vm)
    os.umask(0o077)
    try:
        runtime.prepare()
        prepare(runtime, monitor=options.monitor)
    except BusvmError as error:
        return output.failed(error)
    command = [*plan.bus_command(runtime), *(["--print-address"] if options.print_address else [])]
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
