"""Start a program that the kernel kills when its parent is gone: deathsig.py PARENT_PID PROGRAM [ARGUMENT...].

A wrapper rather than code between fork and exec in the parent, which is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before the line above took effect
        sys.exit("parent is gone")
    os.execv(program[0], program)  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main()
