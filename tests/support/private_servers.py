"""Database servers of a test's own, to be crashed and started again: a PostgreSQL cluster, and a MariaDB server.

They are started from the programs that are installed, in a temporary directory,
on a port of the loopback interface that nobody uses, and as a user without
privileges where the tests run as root, which neither would do.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

#: Seconds within which a server has come up, or gone, unless it is stuck; recovering after a crash is part of it.
PATIENCE: Final = 120.0
_NOTHING: Final = subprocess.DEVNULL


class PrivateServer:
    """A server that is down, until it is started; its data outlive whatever is done to it.

    Attributes:
        url: where it is reached when it is up.

    Args:
        place: an empty directory, which belongs to ``user``.
        user: as whom it is run; None is whoever runs the tests.
    """

    #: The program, and what it takes to make a place for its data.
    programs: ClassVar[tuple[str, ...]]
    #: Users that it may run as.
    users: ClassVar[tuple[str, ...]]
    #: Asks it to end, after undoing what is under way.
    gently: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, place: Path, user: str | None) -> None:
        self._place: Final = place
        self._user: Final = user
        # Or it keeps the groups of whoever runs the tests.
        self._group: Final = None if user is None else pwd.getpwnam(user).pw_gid
        self._groups: Final[list[int] | None] = None if user is None else []
        self._port: Final = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url: str = ""

    # --- what differs ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make a place for its data."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return how it is started, in the foreground."""
        raise NotImplementedError

    def ready(self) -> None:
        """Ask it something, so that it has to be up; raise if it is not."""
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"connect_timeout": 10})
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    # --- up and down -------------------------------------------------------------------------------

    def run(self, *command: str) -> None:
        """Run a program to its end."""
        done = subprocess.run(
            command,
            user=self._user,
            group=self._group,
            extra_groups=self._groups,
            cwd=self._place,
            stdin=_NOTHING,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]} failed: {done.stderr.decode(errors='replace')}"

    def start(self) -> None:
        """Start it, and wait until it answers: after a crash, when it has recovered."""
        with (self._place / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command(),
                user=self._user,
                group=self._group,
                extra_groups=self._groups,
                cwd=self._place,
                stdin=_NOTHING,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ready()
            except Exception as error:
                ended = process.poll()
                if ended is None and time.monotonic() < until:
                    time.sleep(0.02)
                    continue
                log_text = (self._place / "log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"the server does not come up ({ended}): {error}\n{log_text}") from error
            return

    def stop(self, how: signal.Signals) -> None:
        """Send it a signal, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """Kill all its processes, as a crash of the machine would, but that what was written to files is there."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        self.stop(signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while any(_alive(pid) for pid in children):
            assert time.monotonic() < until, f"processes of a server that was killed are still there: {children}"
            time.sleep(0.01)


class PostgreSQL(PrivateServer):
    """A cluster."""

    programs = ("initdb", "postgres")
    users = ("postgres", "nobody")
    gently = signal.SIGINT  # "fast": it does not wait for clients to go

    #: What ``pg_ctl stop -m immediate`` sends: end without writing anything, so that the next start recovers.
    at_once: ClassVar[signal.Signals] = signal.SIGQUIT

    def prepare(self) -> None:
        self.url = f"postgresql+psycopg://sweeps@127.0.0.1:{self._port}/postgres"
        options = ["--username=sweeps", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self.run(_program("initdb"), f"--pgdata={self._place / 'data'}", *options)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": self._place,
            "shared_buffers": "16MB",
        }
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self._place / "data"), *flags]


class MariaDB(PrivateServer):
    """A server without system tables: InnoDB is all that is needed, and nobody has to log in."""

    programs = ("mariadbd",)
    users = ("mysql", "nobody")

    at_once: ClassVar[signal.Signals] = signal.SIGKILL

    def prepare(self) -> None:
        self.url = f"mariadb+pymysql://sweeps@127.0.0.1:{self._port}/sweeps"
        self.run("mkdir", "-p", str(self._place / "data" / "sweeps"))  # a directory is a database
        # The first start writes the files that a crash is recovered by, and only the end of it puts them on the disk:
        # killed before that, MariaDB finds its system tablespace empty.
        self.start()
        self.stop(self.gently)

    def command(self) -> list[str]:
        return [
            _program("mariadbd"),
            "--no-defaults",
            f"--datadir={self._place / 'data'}",
            f"--socket={self._place / 'socket'}",
            f"--pid-file={self._place / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self._port}",
            "--skip-grant-tables",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
        ]


@contextmanager
def private_server(kind: type[PostgreSQL | MariaDB]) -> Generator[PostgreSQL | MariaDB]:
    """Give a server that is up, and leave nothing behind; skip where it is not installed, fail where CI is set."""
    missing = [name for name in kind.programs if _found(name) is None]
    root = os.geteuid() == 0
    user = _user(kind.users) if root else None
    if root and user is None:
        missing.append("a user to run it")
    if missing:
        problem = f"no {kind.__name__} server can be started: {', '.join(missing)} is missing"
        pytest.fail(problem, pytrace=False) if os.environ.get("CI") else pytest.skip(problem)
    # Not pytest's directory, which only its owner may enter; and short, since it has sockets.
    place = Path(tempfile.mkdtemp(prefix="server-"))
    server = kind(place, user)
    try:
        if user is not None:
            shutil.chown(place, user)
        server.prepare()
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)


def _user(names: Iterable[str]) -> str | None:
    """Return the first of some users that is there."""
    for name in names:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def _found(name: str) -> str | None:
    """Return where a program is; distributions keep some of a server's out of PATH."""
    by_version = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/libexec", *map(str, by_version)]
    return shutil.which(name, path=os.pathsep.join(places))


def _program(name: str) -> str:
    found = _found(name)
    assert found is not None, f"{name} is not installed"
    return found


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started, where the system lists them."""
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def _alive(pid: int) -> bool:
    """Return whether a process executes still; one that nobody has waited for yet does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
