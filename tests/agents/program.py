"""A program for tests of SubprocessAgent: its configuration says what it does, and how it ends.

It imports nothing but what it needs, so that many of them may be started.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("SWEEPSTATE_CONFIG_FILE", "")).parent


def wait_for(path: Path) -> None:
    """Wait until a file is there; never for ever, so that no failed test leaves this behind."""
    until = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > until:
            sys.exit("waited in vain")
        time.sleep(0.01)


def end_as(text: str) -> None:
    """End by an exit code, or by a signal of this name."""
    if text.isdigit():
        sys.exit(int(text))
    number = signal.Signals[text]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number is not signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(120)


def obey_the_table(config: dict[str, Any]) -> None:
    """Mark and wait to be asked if told so, then end as told; a second attempt ends well."""
    from sweepstate.agent import child  # noqa: PLC0415 - the others need not wait for it

    if os.environ["SWEEPSTATE_ATTEMPT"] != "1":
        return
    if config["mark"]:
        child.mark_preempting()
    if config["ask"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (HERE / "ready").touch()
        until = time.monotonic() + 120
        while not child.should_stop() and time.monotonic() < until:
            time.sleep(0.01)
    end_as(config["end"])


def ignore_sigterm(_config: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (HERE / "ready").touch()
    wait_for(HERE / "never")


def have_grandchildren(config: dict[str, Any]) -> None:
    """Start grandchildren that ignore SIGTERM, one by way of another; then wait, or leave them behind."""
    stubborn = 'trap "" TERM; sleep 300 & sleep 300 & wait'
    for _ in range(2):
        subprocess.Popen(["sh", "-c", stubborn])
    (HERE / "ready").touch()
    if not config.get("leave"):
        wait_for(HERE / "never")


def leave_a_daemon(_config: dict[str, Any]) -> None:
    """Fork one that begins a session of its own, and keeps all that is open here."""
    if os.fork() == 0:
        os.setsid()
        (HERE / "ready").touch()
        wait_for(HERE / "go")
        os._exit(0)
    wait_for(HERE / "ready")


def flood(config: dict[str, Any]) -> None:
    line = b"x" * 1023 + b"\n"
    for _ in range(config["megabytes"] * 512):
        os.write(1, line)
        os.write(2, line)
    os.write(2, b"the last \xff line\n")
    sys.exit(3)


def wait_to_be_let_go(_config: dict[str, Any]) -> None:
    (HERE / "ready").touch()
    wait_for(HERE / "go")


def once(config: dict[str, Any]) -> None:
    """Work a little, and note if another attempt of the same run does so at the same time."""
    place = HERE.parent / f"at-work-{config['x']}"
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (HERE.parent / "overlap").touch()
        (HERE / "ready").touch()
        first = config["x"] < 2 and os.environ["SWEEPSTATE_ATTEMPT"] == "1"
        time.sleep(config.get("work", 0.05) if first else 0.05)


def note_signals(_config: dict[str, Any]) -> None:
    """End when SIGUSR1 comes."""
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
    (HERE / "ready").touch()
    wait_for(HERE / "never")


def show_surroundings(_config: dict[str, Any]) -> None:
    names = [name for name in os.environ if name.startswith(("SWEEPSTATE_", "CUDA_", "SHOWN"))]
    shown = {name: os.environ[name] for name in names}
    (HERE / "shown.json").write_text(json.dumps({"argv": sys.argv[1:], "env": shown, "cwd": str(Path.cwd())}))


def talk(config: dict[str, Any]) -> None:
    """Report, with all manner of nonsense between."""
    from sweepstate.agent import child  # noqa: PLC0415 - the others need not wait for it

    channel = child._channel
    assert channel is not None
    for step in range(200):
        child.report(step=step, loss=1 / (step + 1))
    os.set_blocking(channel._descriptor, True)
    for nonsense in (b"\n", b"}{\n", b"\xff\xfe\n", b"[" * 5000 + b"\n", b'{"finish": {"loss": "low"}}\n', b"[1]\n"):
        os.write(channel._descriptor, nonsense)
    os.write(channel._descriptor, b'{"finish": {"a": 1, "junk": "' + b"x" * 300_000 + b'"}}\n')
    (HERE / "ready").touch()
    wait_for(HERE / "go")
    if config.get("finish"):
        child.finish(loss=0.25)
    os.write(channel._descriptor, b'{"finish": {"loss"')


def main() -> None:
    config = json.loads(os.environ["SWEEPSTATE_CONFIG"])
    globals()[config.get("do", sys.argv[1] if len(sys.argv) > 1 else "once")](config)


if __name__ == "__main__":
    main()
