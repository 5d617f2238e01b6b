"""python -m images vllm-venv | lock | archive: the images and what they are made of."""

import argparse
import sys

from images import environment, recipes


def main() -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("vllm-venv", help="print the folder of the virtual environment with vLLM, made if missing")
    commands.add_parser("lock", help="resolve vllm/requirements.in into its lock file")
    archive = commands.add_parser(
        "archive", help="write an image as a tar file for `docker load` or `ctr images import`"
    )
    archive.add_argument("image", choices=recipes.IMAGES)
    archive.add_argument("file", type=argparse.FileType("wb"))
    options = parser.parse_args()
    if options.command == "lock":
        print(environment.lock_vllm())
    elif options.command == "archive":
        recipes.IMAGES[options.image]().write(options.file)
    else:
        print(environment.VLLM.ensure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
