"""Run a command in a network namespace of its own, in which there is a loopback and nothing else.

``python -m tests.support.lone COMMAND...``. Ray listens on every interface and looks for a public address when it
starts; here it finds neither. Linux only. It needs to be root, or that users may have namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # see unshare(2)
_GETFLAGS, _SETFLAGS, _UP = 0x8913, 0x8914, 1  # see netdevice(7)


def is_lone() -> bool:
    """Return whether this process can reach nothing but itself and what shares its namespace."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def enter() -> None:
    """Move this process to a namespace of its own.

    Raises:
        OSError: that is not permitted, or not possible here.
    """
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        raise OSError("this system has no namespaces")
    if unshare(_NEWNET if os.geteuid() == 0 else _NEWUSER | _NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, _GETFLAGS, request.ljust(40, b"\0")), 16)
        fcntl.ioctl(any_socket, _SETFLAGS, struct.pack("16sh", b"lo", flags | _UP).ljust(40, b"\0"))
    if not is_lone():
        raise OSError("the namespace is not empty")


def permitted() -> bool:
    """Return whether a process may have a namespace of its own here."""
    program = "from tests.support.lone import enter; enter()"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def main(command: list[str]) -> None:
    """Enter, and become the command."""
    enter()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
