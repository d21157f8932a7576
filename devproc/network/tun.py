"""``/dev/net/tun`` (Documentation/networking/tuntap.rst, if_tun.h): opening a tap, and finding out whether one may."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import socket
import struct
from enum import IntFlag
from pathlib import Path

from devproc.network.features import NetFeature
from devproc.network.frame import HEADER
from protocol.errors import ConfigError, HostError

DEVICE = Path("/dev/net/tun")
_NAME = re.compile(r"[^\s/:%]{1,15}")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU, _SIOCGIFINDEX = 0x8913, 0x8914, 0x8921, 0x8933
_UP = 1
_CAP_NET_ADMIN = 12
_NOBODY = -1
_INTERFACE = struct.Struct("16sH22x")  # struct ifreq, with flags
_NUMBER = struct.Struct("16si20x")  # struct ifreq, with a number


class Ioctl:
    """``_IOW('T', number, int)`` of linux/if_tun.h."""

    SETIFF = 0x4004_54CA
    GETIFF = 0x8004_54D2
    SETOFFLOAD = 0x4004_54D0
    SETVNETHDRSZ = 0x4004_54D8
    SETQUEUE = 0x4004_54D9
    SETVNETLE = 0x4004_54DC


class Kind(IntFlag):
    """IFF_*."""

    TAP = 0x0002
    MULTI_QUEUE = 0x0100
    ATTACH = 0x0200
    DETACH = 0x0400
    NO_PI = 0x1000
    VNET_HDR = 0x4000


class Offload(IntFlag):
    """TUN_F_*: what the reader of a tap is prepared to find in frames."""

    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    ECN = 0x08
    UFO = 0x10
    USO4 = 0x20
    USO6 = 0x40


F = NetFeature
_GUEST = {
    F.GUEST_CSUM: Offload.CSUM,
    F.GUEST_TSO4: Offload.TSO4,
    F.GUEST_TSO6: Offload.TSO6,
    F.GUEST_ECN: Offload.ECN,
    F.GUEST_UFO: Offload.UFO,
    F.GUEST_USO4: Offload.USO4,
    F.GUEST_USO6: Offload.USO6,
}
_USO = Offload.USO4 | Offload.USO6


def add_command(interface: str, pairs: int) -> str:
    """Return the command that makes an interface that the caller may open."""
    more = " multi_queue" if pairs > 1 else ""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    add = f"sudo ip tuntap add dev {interface} mode tap user {user}{more} vnet_hdr"
    return f"{add} && sudo ip link set {interface} up"


def check_name(interface: str) -> None:
    """Refuse what is no name of an interface.

    Raises:
        ConfigError: it is none.
    """
    if not _NAME.fullmatch(interface) or interface in (".", ".."):
        raise ConfigError(f"{interface!r} is no name of an interface", hint="1 to 15 letters, such as tap0")


def check(interface: str, pairs: int = 1) -> None:
    """Find out whether ``attach`` would succeed, and touch nothing.

    Another process may still hold the only queue of the interface, which only ``attach`` finds out.

    Raises:
        ConfigError: ``interface`` is no name.
        HostError: it would not.
    """
    check_name(interface)
    if not DEVICE.exists():
        raise HostError(f"{DEVICE} is not there", hint="sudo modprobe tun")
    if not os.access(DEVICE, os.R_OK | os.W_OK, effective_ids=True):
        raise HostError(f"{DEVICE}: permission denied", hint=f"sudo chmod 666 {DEVICE}, as most systems have it")
    privileged = _privileged()
    index = _index(interface)
    if not index:
        if not privileged:
            raise HostError(f"there is no interface {interface}", hint=add_command(interface, pairs))
        return
    about = Path("/sys/class/net") / interface
    try:
        if int((about / "ifindex").read_text()) != index:
            return  # /sys is that of another network namespace
    except (OSError, ValueError):
        return  # so it is here
    try:
        kind = int((about / "tun_flags").read_text(), 16)
        owner, group = (int((about / name).read_text()) for name in ("owner", "group"))
    except FileNotFoundError as error:
        raise HostError(f"{interface} is no tap interface", hint="another name, or a tap in its bridge") from error
    except (OSError, ValueError):
        return
    if not kind & Kind.TAP:
        raise HostError(f"{interface} is a tun, not a tap", hint=_again(interface, pairs))
    if pairs > 1 and not kind & Kind.MULTI_QUEUE:
        raise HostError(f"{interface} has one queue, not {pairs}", hint=_again(interface, pairs))
    strange = owner not in (_NOBODY, os.geteuid()) or group not in (_NOBODY, os.getegid(), *os.getgroups())
    if strange and not privileged:
        raise HostError(f"{interface} is another user's", hint=_again(interface, pairs))


def _again(interface: str, pairs: int) -> str:
    return f"sudo ip link delete {interface} && {add_command(interface, pairs)}"


def _privileged() -> bool:
    """Whether we may make interfaces."""
    found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def _asked(request: int, interface: str, layout: struct.Struct = _NUMBER) -> int:
    """Ask the kernel about an interface; 0 if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, request, layout.pack(interface.encode(), 0))
        except OSError:
            return 0
    return int(layout.unpack(answer)[1])


def _index(interface: str) -> int:
    return _asked(_SIOCGIFINDEX, interface)


def mtu_of(interface: str) -> int:
    """Return the interface's MTU; 0 if it is in another namespace."""
    return _asked(_SIOCGIFMTU, interface)


def attach(interface: str, pairs: int) -> list[int]:
    """Open an interface ``pairs`` times; one that is not there is made, brought up, and gone with the descriptors.

    Raises:
        ConfigError: ``interface`` is no name.
        HostError: it cannot be had.
    """
    check_name(interface)
    new = not _index(interface)
    kind = Kind.TAP | Kind.NO_PI | Kind.VNET_HDR | (Kind.MULTI_QUEUE if pairs > 1 else 0)
    fds: list[int] = []
    try:
        for _ in range(pairs):
            fds.append(os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            try:
                fcntl.ioctl(fds[-1], Ioctl.SETIFF, _INTERFACE.pack(interface.encode(), kind))
            except OSError as error:
                if error.errno != errno.EINVAL or pairs > 1:
                    raise
                # one that was made for several queues wants to be asked for several
                fcntl.ioctl(fds[-1], Ioctl.SETIFF, _INTERFACE.pack(interface.encode(), kind | Kind.MULTI_QUEUE))
        if new:
            _bring_up(interface)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _explained(interface, pairs, error) from error
    return fds


def _explained(interface: str, pairs: int, error: OSError) -> HostError:
    try:
        check(interface, pairs)
    except HostError as found:
        return found
    hint = _again(interface, pairs) if _index(interface) else add_command(interface, pairs)
    if error.errno == errno.EBUSY:
        hint = "another process holds it"
    return HostError(f"interface {interface}: {error.strerror}", hint=hint)


def _bring_up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = _asked(_SIOCGIFFLAGS, interface, _INTERFACE)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _INTERFACE.pack(interface.encode(), flags | _UP))


def interface_of(fd: int) -> str:
    """Return the name of the interface that a descriptor is a queue of.

    Raises:
        ConfigError: it is none, or one without headers before the frames.
    """
    try:
        answer = fcntl.ioctl(fd, Ioctl.GETIFF, bytes(_INTERFACE.size))
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
    except OSError as error:
        raise ConfigError(f"descriptor {fd} is no tap: {error.strerror}") from error
    name, kind = _INTERFACE.unpack(answer)
    if kind & (Kind.TAP | Kind.NO_PI | Kind.VNET_HDR) != Kind.TAP | Kind.NO_PI | Kind.VNET_HDR:
        raise ConfigError(f"descriptor {fd} is no tap with IFF_NO_PI and IFF_VNET_HDR")
    return str(name.rstrip(b"\0").decode(errors="replace"))


def prepare(fd: int) -> int:
    """Have headers of virtio-net's size before the frames; return the ``offloads`` that the kernel is able to.

    Raises:
        OSError: it is not.
    """
    fcntl.ioctl(fd, Ioctl.SETVNETHDRSZ, struct.pack("i", HEADER))
    fcntl.ioctl(fd, Ioctl.SETVNETLE, struct.pack("i", 1))
    found = F.CSUM | F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO
    features = F(0)
    for more in (F.GUEST_CSUM, F.GUEST_TSO4, F.GUEST_TSO6, F.GUEST_ECN, F.GUEST_UFO, F.GUEST_USO4 | F.GUEST_USO6):
        if set_offloads(fd, features | more):
            features |= more
    if features & F.GUEST_USO4:  # of the same version of the kernel, 6.2
        found |= F.HOST_USO
    set_offloads(fd, 0)
    return int(found | features)


def set_offloads(fd: int, features: int) -> bool:
    """Have the kernel leave to the reader what it has agreed to; ``False``: it does not take that."""
    wanted = 0
    for feature, offload in _GUEST.items():
        if features & feature:
            wanted |= offload
    if wanted & _USO != _USO:  # the kernel has both or none (drivers/net/tun.c, set_offload)
        wanted &= ~_USO
    try:
        fcntl.ioctl(fd, Ioctl.SETOFFLOAD, wanted)
    except OSError:
        return False
    return True


def set_queue(fd: int, *, attached: bool) -> None:
    """Have a queue take part, or not.

    Raises:
        OSError: the interface has no such, or has gone.
    """
    fcntl.ioctl(fd, Ioctl.SETQUEUE, _INTERFACE.pack(b"", Kind.ATTACH if attached else Kind.DETACH))
