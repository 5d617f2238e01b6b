"""python -m images vllm-venv | lock: what the images are made of."""

import argparse
import sys

from images import environment


def main() -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("vllm-venv", help="print the folder of the virtual environment with vLLM, made if missing")
    commands.add_parser("lock", help="resolve vllm/requirements.in into its lock file")
    options = parser.parse_args()
    if options.command == "lock":
        print(environment.lock_vllm())
    else:
        print(environment.VLLM.ensure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
