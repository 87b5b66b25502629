"""No name that a platform lacks, in what everybody runs: all but the tests.

A fault here is seen on the machine of a reader alone, so the sources are
searched. Where a name is asked for with getattr and a default, it is guarded.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tangle
from myst_nb.core.read import read_myst_markdown_notebook


ROOT = Path(__file__).resolve().parents[1]

# What Python's documentation marks "Availability: Unix", or Linux alone.
MODULES = (
    *("crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix"),
    *("pty", "pwd", "readline", "resource", "spwd", "syslog", "termios"),
    "tty",
)
NAMES = {
    "os": "chown chroot confstr copy_file_range ctermid environb eventfd "
    "fchdir fchmod fchown fdatasync fork forkpty fpathconf fstatvfs fwalk "
    "get_blocking getegid getenvb geteuid getgid getgrouplist getgroups "
    "getloadavg getpgid getpgrp getpriority getrandom getresgid getresuid "
    "getsid getuid getxattr initgroups killpg lchflags lchmod lchown "
    "listxattr lockf login_tty major makedev memfd_create minor mkfifo mknod "
    "nice openpty pathconf pidfd_open pipe2 posix_fadvise posix_fallocate "
    "posix_spawn posix_spawnp pread preadv pwrite pwritev readv "
    "register_at_fork removexattr sched_getaffinity sched_setaffinity "
    "sched_yield sendfile set_blocking setegid seteuid setgid setgroups "
    "setpgid setpriority setsid setuid setxattr splice statvfs sync sysconf "
    "tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid writev "
    "WNOHANG O_CLOEXEC O_DIRECTORY O_NOCTTY O_NONBLOCK O_SYNC O_DSYNC",
    "signal": "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT "
    "SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGUSR1 SIGUSR2 SIGWINCH alarm "
    "getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt "
    "sigpending sigtimedwait sigwait sigwaitinfo",
    "time": "clock_getres clock_gettime clock_gettime_ns tzset",
    "select": "epoll poll",
    "shutil": "chown",
}


def cells(page: Path) -> str:
    """The code of a page as one program, on the lines that it has there."""
    text = page.read_text(encoding="utf-8")
    book = read_myst_markdown_notebook(text, add_source_map=True)
    starts = book.metadata["source_map"]
    return "\n".join(
        f"# {page.stem}, line {start}\n{cell.source}"
        for cell, start in zip(book.cells, starts, strict=True)
        if cell.cell_type == "code"
    )


def programs() -> dict[str, str]:
    """What everybody runs, by name: package, build, benchmarks, pages."""
    files = [
        path
        for folder in ("cnn", "book/_ext", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in files
    }
    for page in sorted(set(tangle.toc_names(ROOT / "_toc.yml"))):
        path = ROOT / "book" / f"{page}.md"
        if "{code-cell}" in path.read_text(encoding="utf-8"):
            texts[f"book/{page}.md"] = cells(path)
    return texts


PROGRAMS = programs()


def lacking(source: str) -> Iterator[str]:
    """What a program uses that some platform lacks."""
    for node in ast.walk(ast.parse(source)):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (alias.name for alias in node.names)
            found = [node.module, *(f"{node.module}.{n}" for n in names)]
        elif isinstance(node, ast.Attribute):
            found = [ast.unparse(node)]
        for name in found:
            module, _, attribute = name.partition(".")
            if module in MODULES or (
                attribute in NAMES.get(module, "").split()
            ):
                yield f"{name}, line {node.lineno}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_name_that_a_platform_lacks(program: str) -> None:
    assert list(lacking(PROGRAMS[program])) == [], (
        "Do without it, or ask for it with getattr and a default."
    )


def unnamed_encodings(source: str) -> Iterator[str]:
    """Text files opened in the encoding of whoever opens them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        given = [*map(ast.unparse, node.args)]
        named = {word.arg for word in node.keywords}
        where = f"{ast.unparse(node)[:60]}, line {node.lineno}"
        if function.endswith(".read_text"):
            if not given and "encoding" not in named:
                yield where
        elif function.endswith(".write_text"):
            if len(given) < 2 and "encoding" not in named:
                yield where
        elif function == "open":
            binary = any("b" in mode for mode in given[1:2])
            if not binary and "encoding" not in named:
                yield where


@pytest.mark.parametrize("program", PROGRAMS)
def test_text_is_read_and_written_in_one_encoding(program: str) -> None:
    """Windows has another one where none is named."""
    assert list(unnamed_encodings(PROGRAMS[program])) == []


def test_the_search_finds_what_it_is_for() -> None:
    bad = (
        "import fcntl\nfrom os import fork\nimport os, signal\n"
        "os.kill(1, signal.SIGKILL)\nos.ttyname(2)\n"
        "getattr(os, 'sched_yield', None)\n"
    )
    assert [found.split(",")[0] for found in lacking(bad)] == [
        "fcntl",
        "os.fork",
        "signal.SIGKILL",
        "os.ttyname",
    ]
    bad = "open(x)\nopen(x, 'w')\np.read_text()\np.write_text('')\n"
    assert len(list(unnamed_encodings(bad))) == 4
    good = "open(x, 'rb')\np.read_text('utf-8')\np.write_bytes(b'')\n"
    assert list(unnamed_encodings(good)) == []


def test_no_two_files_differ_in_case_alone() -> None:
    """On Windows and macOS they would be one."""
    left_out = {"_build", "_page", "build", ".git", "mutants"}
    paths = [
        path.relative_to(ROOT).as_posix()
        for folder in ("book", "cnn", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if not left_out & {*path.parts} and "__pycache__" not in path.parts
    ]
    assert len({path.lower() for path in paths}) == len(paths)
    assert not [path for path in paths if set(path) & set('<>:"|?*\\')]


def test_a_step_is_shared_without_what_a_platform_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The waiting of processes, without what Windows does not have."""
    from multiprocessing import Pipe

    from cnn.back.processes import receive, send

    monkeypatch.delattr(os, "sched_yield", raising=False)
    ours, theirs = Pipe()
    send(theirs, "done")
    assert receive(ours) == "done"
