"""`python -m hub FOLDER`: serve the repositories in FOLDER/ORGANIZATION/NAME until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from hub import Hub


def repositories(folder: Path) -> dict[str, Path]:
    """Folders two levels down, by the repository's name."""
    found = (path for path in sorted(folder.glob("*/*")) if path.is_dir() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found}


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--token", default="", help="token without which no repository is to be seen")
    args = parser.parse_args()
    found = repositories(args.folder)
    if not found:
        print(f"{args.folder} holds no folders ORGANIZATION/NAME.", file=sys.stderr)
        return 2
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Hub(args.address, args.port) as hub:
        for name, path in found.items():
            hub.add(name, path, token=args.token)
        print(f"HF_ENDPOINT={hub.endpoint} {' '.join(found)}", flush=True)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
