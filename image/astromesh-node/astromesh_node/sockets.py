"""The listening sockets: passed by the supervisor, or bound here.

Passing follows sd_listen_fds(3): LISTEN_PID names this process, LISTEN_FDS counts the
descriptors from 3 on. A supervisor that holds the socket can restart the service without
refusing a connection.
"""

import os
import socket

FIRST_FD = 3


class BindError(Exception):
    """The address cannot be listened on; the text names it."""


def inherited(environ=os.environ):
    """The sockets of LISTEN_FDS; an empty list when none were passed to this process."""
    count = environ.get("LISTEN_FDS", "")
    pid = environ.get("LISTEN_PID")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if not count.isdecimal() or int(count) == 0 or (pid and pid != str(os.getpid())):
        return []
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        try:
            os.set_inheritable(fd, False)
            found.append(socket.socket(fileno=fd))
        except OSError as error:
            raise BindError(f"LISTEN_FDS={count}: descriptor {fd} is no socket: {error}") from error
    return found


def bind(host, port):
    """A socket bound to the address; it does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise BindError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener
