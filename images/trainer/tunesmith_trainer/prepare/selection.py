"""At most so many images of each class, always the same ones: chosen by a hash of their names."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def within_cap(table: pa.Table, split_column: str, most: int) -> npt.NDArray[np.bool_]:
    """Say which lines to keep so that each label has at most ``most`` in each split the source names.

    Each image's place in the queue depends on its own name only.

    Args:
        table: with the columns ``path``, ``label`` and the one named.
        split_column: name of the split's column.
        most: at least 1.
    """
    labels = table["label"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    kind = labels * 256 + table[split_column].to_numpy()
    place = np.empty(table.num_rows, np.uint64)
    at = 0
    for chunk in table["path"].chunks:
        for start in range(0, len(chunk), 65_536):
            names = chunk.slice(start, 65_536).to_pylist()
            hashes = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
            place[at : at + len(names)] = np.frombuffer(hashes, ">u8")
            at += len(names)
    order = np.lexsort((place, kind))
    _, starts = np.unique(kind[order], return_index=True)
    first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    keep = np.zeros(table.num_rows, np.bool_)
    keep[order[np.arange(len(order)) - first < most]] = True
    return keep
