"""Archives of numpy arrays from packages: no pickle, and no more memory than expected."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith_api.reasons import PackageInvalid

MOST_BYTES = 64 * 2**20
"""Of all arrays of an archive together, unpacked; what the trainer writes is a tenth of that."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a ``.npz`` file by name.

    Raises:
        PackageInvalid: it is missing, no such archive, or unpacks to more than `MOST_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > MOST_BYTES:
            raise PackageInvalid(
                f"{path.name} unpacks to {size:,} bytes, and {MOST_BYTES:,} are the most.",
                "Publish the model again.",
            )
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise PackageInvalid(f"{path.name} cannot be read ({error}).", "Publish the model again.") from error
