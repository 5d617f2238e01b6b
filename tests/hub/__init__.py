"""A small model hub: as much of the Hugging Face hub's protocol as its Python client needs to look up and download.

It serves plain folders, and misbehaves when told to.
"""

from hub.faults import Fault
from hub.repository import Access, Repository, StoredFile
from hub.seen import Seen
from hub.server import Hub

__all__ = ["Access", "Fault", "Hub", "Repository", "Seen", "StoredFile"]
