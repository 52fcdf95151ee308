"""What the TPU compiler is told where there is no TPU, so that it asks no machine and complains of none.

JAX loads ``libtpu`` wherever it is installed, also on a laptop that only plans for TPUs; without these words it begins
every command with warnings of its own.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

WORDS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # there is no TPU to be alone with: plan while something trains
}
OF_THE_PACKAGES = ("TPU_SKIP_MDS_QUERY", "TPU_LIBRARY_PATH")  # which JAX and libtpu set when they are imported
DEVICES = ("dev/accel*", "dev/vfio/[0-9]*")
PCI_VENDORS = "sys/bus/pci/devices/*/vendor"
GOOGLE = "0x1ae0"


def quieten(environ: MutableMapping[str, str] = os.environ, *, root: Path = Path("/")) -> None:
    """Set ``WORDS`` in the environment, before JAX looks for devices.

    On a machine with a TPU, or where anything about TPUs is set already, nothing is touched.
    """
    said = [name for name in environ if name.startswith("TPU_") and name not in OF_THE_PACKAGES]
    if not said and "JAX_FORCE_TPU_INIT" not in environ and not has_tpu(root):
        for name, value in WORDS.items():
            environ.setdefault(name, value)


def has_tpu(root: Path = Path("/")) -> bool:
    """Whether something that may be a TPU is attached to this machine; ``root`` is where its file system begins."""
    if any(next(root.glob(pattern), None) is not None for pattern in DEVICES):
        return True
    return any(_text(file) == GOOGLE for file in root.glob(PCI_VENDORS))


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
