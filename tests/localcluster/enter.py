"""Run a program inside the namespaces of a node: enter.py PID PATH PROGRAM [ARGUMENT...].

PID is the process that made the namespaces, as seen from here; PATH is the program's $PATH. When this process ends,
whatever ends it, the kernel kills the program.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# The one that made them is not in the process namespace itself, only its children are.
NAMESPACES = ("net", "pid_for_children", "mnt")


def main() -> None:
    target, path, program = sys.argv[1], sys.argv[2], sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors = [os.open(f"/proc/{target}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for descriptor in descriptors:
        if libc.setns(descriptor, 0) != 0:
            sys.exit(f"setns failed: {os.strerror(ctypes.get_errno())}")
        os.close(descriptor)
    reader, writer = os.pipe()
    child = os.fork()  # only a child is in the process namespace
    if child == 0:
        _run(libc, (reader, writer), path, program)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    sys.exit(max(os.waitstatus_to_exitcode(status), 1) if status else 0)


def _run(libc: ctypes.CDLL, pipe: tuple[int, int], path: str, program: list[str]) -> None:
    reader, writer = pipe
    os.close(writer)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent cannot be asked for from here; were it gone by now, its end of the pipe would be closed.
    os.set_blocking(reader, False)
    try:
        gone = os.read(reader, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:
        sys.exit("parent is gone")
    os.close(reader)
    os.chdir("/")
    os.environ["PATH"] = path
    os.execvpe(program[0], program, os.environ)  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main()
