"""Loading libslirp through cffi's ABI mode: what its header says, and whether it is there.

The header is that of 4.7 (Debian 12), the configuration of version 3: from 4 on the library calls two callbacks more.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from protocol.errors import HostError

LIBRARY = "libslirp.so.0"
INSTALL = "install libslirp (Debian: apt install libslirp0), or passt"
_DECLARATIONS = """
typedef struct Slirp Slirp;
struct in_addr { uint32_t s_addr; };
struct in6_addr { uint32_t s6_addr32[4]; };
typedef ssize_t (*SlirpWriteCb)(const void *buf, size_t len, void *opaque);
typedef void (*SlirpTimerCb)(void *opaque);
typedef int (*SlirpAddPollCb)(int fd, int events, void *opaque);
typedef int (*SlirpGetREventsCb)(int idx, void *opaque);
typedef struct {
    SlirpWriteCb send_packet;
    void (*guest_error)(const char *msg, void *opaque);
    int64_t (*clock_get_ns)(void *opaque);
    void *(*timer_new)(SlirpTimerCb cb, void *cb_opaque, void *opaque);
    void (*timer_free)(void *timer, void *opaque);
    void (*timer_mod)(void *timer, int64_t expire_time, void *opaque);
    void (*register_poll_fd)(int fd, void *opaque);
    void (*unregister_poll_fd)(int fd, void *opaque);
    void (*notify)(void *opaque);
    void *of_version_4[2];
} SlirpCb;
typedef struct {
    uint32_t version;
    int restricted;
    bool in_enabled;
    struct in_addr vnetwork, vnetmask, vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname, *tftp_server_name, *tftp_path, *bootfile;
    struct in_addr vdhcp_start, vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch;
    const char *vdomainname;
    size_t if_mtu, if_mru;
    bool disable_host_loopback, enable_emu;
    void *outbound_addr, *outbound_addr6;
    bool disable_dns;
    bool of_version_4[8];
} SlirpConfig;
Slirp *slirp_new(const SlirpConfig *cfg, const SlirpCb *callbacks, void *opaque);
void slirp_cleanup(Slirp *slirp);
void slirp_pollfds_fill(Slirp *slirp, uint32_t *timeout, SlirpAddPollCb add_poll, void *opaque);
void slirp_pollfds_poll(Slirp *slirp, int select_error, SlirpGetREventsCb get_revents, void *opaque);
void slirp_input(Slirp *slirp, const uint8_t *pkt, int pkt_len);
int slirp_add_hostxfwd(Slirp *slirp, const void *haddr, uint32_t hlen, const void *gaddr, uint32_t glen, int flags);
int slirp_add_exec(Slirp *slirp, const char *cmdline, struct in_addr *guest_addr, int guest_port);
int slirp_add_unix(Slirp *slirp, const char *unixsock, struct in_addr *guest_addr, int guest_port);
const char *slirp_version_string(void);
"""


@cache
def load() -> tuple[Any, Any]:
    """Return cffi's interface and the library.

    Raises:
        HostError: one of them is missing, or too old.
    """
    try:
        from cffi import FFI  # 3 MB and 30 ms, for those who use it
    except ImportError as error:
        raise HostError("the user network needs cffi", hint=f"pip install cffi; {INSTALL}") from error
    ffi = FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        library = ffi.dlopen(LIBRARY)
        library.slirp_add_hostxfwd  # noqa: B018 - of 4.5
    except (OSError, AttributeError) as error:
        raise HostError(f"the user network needs {LIBRARY}, 4.5 or later: {error}", hint=INSTALL) from error
    return ffi, library


def available() -> bool:
    """Whether the library can be used."""
    try:
        load()
    except HostError:
        return False
    return True
