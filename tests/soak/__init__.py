"""A change a second for a long time."""
