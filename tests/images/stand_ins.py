"""Empty stand-ins for NVIDIA's libraries, which torch is linked against and which nothing calls without a GPU."""

import re
from pathlib import Path

from images import elf

# What torch 2.13 for CUDA 13 is linked against and requirements.txt leaves out. libcudart is the real one.
LIBRARIES = (
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcupti.so.13",
    "libcurand.so.10",
    "libcusolver.so.12",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvrtc.so.13",
    "libnvshmem_host.so.3",
)
_DEFINITIONS = "libabsent.so"
_INTERFACES = re.compile(r"(cublas|cudnn|cufft|cuFile|cupti|curand|cusolver|cusparse|nccl|nvrtc|nvshmem)")


def write(folder: Path) -> None:
    """Write the stand-ins beside torch's own libraries in `folder`, which is where those look first."""
    wanted = {
        symbol
        for library in sorted(folder.glob("libtorch*.so"))
        for symbol in elf.undefined_symbols(library)
        if _INTERFACES.match(symbol)
    }
    (folder / _DEFINITIONS).write_bytes(elf.shared_library(_DEFINITIONS, wanted))
    for soname in LIBRARIES:
        (folder / soname).write_bytes(elf.shared_library(soname, needed=_DEFINITIONS))
