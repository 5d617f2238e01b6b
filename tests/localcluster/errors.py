"""What goes wrong in the harness, as sentences for the person who ran the command."""


class LocalClusterError(Exception):
    """A local cluster could not be built, started or reached; the text says what to do."""
