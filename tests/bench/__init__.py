"""Measurements of the operator beside a floor taken in the same run: `python -m bench`, or `make bench`."""
