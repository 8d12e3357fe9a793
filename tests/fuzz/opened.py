"""Which files a command opens, by strace: none but those it was given, its own and the system's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fuzz.case import Case

_CALLS = "open,openat,openat2,creat,execve,execveat,connect"
_LINE = re.compile(r'\b(open|openat|openat2|creat|execve|execveat)\((?:AT_FDCWD, |\d+, )?"([^"]*)"')
_CONNECT = re.compile(r"\bconnect\(\d+, \{sa_family=(AF_INET6?|AF_UNIX)")
_SYSTEM = ("/usr/", "/lib", "/proc/", "/sys/", "/dev/", "/etc/ld.so", "/etc/localtime", "/etc/ssl",
           "/etc/OpenCL", "/etc/mime.types", "/etc/passwd", "/etc/nsswitch.conf",
           "/etc/fonts")  # fmt: skip
"""Where the system and its libraries have their own files; /etc/passwd is read to find a user."""


def available() -> bool:
    """Whether strace is installed and may follow processes."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return done.returncode == 0


def trace(process: int, case: Case) -> Callable[[], None]:
    """Lets strace follow a stopped process and its children into a file beside the case."""
    log = log_path(case)
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", f"trace={_CALLS}", "-s", "4096", "-o", str(log),
         "-p", str(process)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while tracer.poll() is None and not _is_traced(process):
        time.sleep(0.002)
    return lambda: (tracer.wait(), None)[1]


def log_path(case: Case) -> Path:
    return case.folder.with_name(f"{case.folder.name}.opened")


def _is_traced(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return "TracerPid:\t0\n" not in status


def strangers(case: Case) -> list[str]:
    """What was opened, run or connected to besides what a command may."""
    home = case.folder.with_name(f"{case.folder.name}.home")
    own = [str(case.folder), str(home), str(case.corpus.folder), str(Path(__file__).parents[2])]
    own += [
        sys.prefix,
        sys.base_prefix,
        *filter(None, sys.path),
        *map(str, case.corpus.extra),
    ]
    found = list[str]()
    text = log_path(case).read_text(errors="replace")
    for _, name in _LINE.findall(text):
        path = os.path.normpath(case.folder / _unescaped(name))
        if path.startswith(_SYSTEM) or path == "/":
            continue
        inside = any(path == each or path.startswith(f"{each}/") for each in own)
        if not inside or "planted" in path:
            found.append(path)
    return found + [f"a connection of {kind}" for kind in _CONNECT.findall(text)]


def _unescaped(name: str) -> str:
    return os.fsdecode(name.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1"))
