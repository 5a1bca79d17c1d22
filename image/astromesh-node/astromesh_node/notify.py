"""sd_notify: datagrams that tell the supervisor how the service fares.

The protocol is that of sd_notify(3): `KEY=value` lines in one datagram to the socket that
NOTIFY_SOCKET names, a path or, after '@', an abstract name. Without NOTIFY_SOCKET there is
nobody to tell, and every call does nothing.
"""

import os
import socket
import time


class Notifier:
    """Sends to the supervisor; never raises, because a deaf supervisor is no reason to stop."""

    def __init__(self, environ=os.environ):
        self._address = environ.get("NOTIFY_SOCKET") or None
        self._socket = None
        self.watchdog_seconds = _watchdog(environ)
        if self._address is None:
            return
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # The watchdog ping comes from the event loop, which must not block on a full queue.
        self._socket.setblocking(False)

    def send(self, *lines):
        """Sends one datagram; says whether it went out."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def ready(self, status):
        """The service serves (again)."""
        return self.send("READY=1", f"STATUS={status}")

    def reloading(self):
        """A reload begins. The clock reading ties a later READY=1 to this reload."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self.send("RELOADING=1", f"MONOTONIC_USEC={usec}")

    def stopping(self):
        """The service ends."""
        return self.send("STOPPING=1")

    def watchdog(self):
        """The event loop turns."""
        return self.send("WATCHDOG=1")


def _watchdog(environ):
    """Seconds within which a ping must come, or None when no ping is wanted from this process."""
    try:
        usec = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    pid = environ.get("WATCHDOG_PID")
    if usec <= 0 or (pid and pid != str(os.getpid())):
        return None
    return usec / 1_000_000
