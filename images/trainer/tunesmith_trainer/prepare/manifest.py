"""A CSV or Parquet table with one line for each image: path, label, and optionally split, weight, slices."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tunesmith_api.reasons import DatasetInvalid
from tunesmith_package.store import KeyRefused, Store, check_key
from tunesmith_trainer.prepare.files import Files
from tunesmith_trainer.prepare.objects import ObjectSource
from tunesmith_trainer.prepare.source import NO_SPLIT, Entry, EntryTable, Listing
from tunesmith_trainer.prepare.split_names import SPLITS, split_of

REQUIRED = ("path", "label")
OPTIONAL = ("split", "weight")
_LINE = "\0line"  # the column that remembers where a row stood
_MOST_WEIGHT = 1e6
_NO_MATTER = {"clutter", "folder-link"}  # a manifest may name images that lie behind such a link


def list_manifest(store: Store, files: Files, name: str, slice_names: tuple[str, ...] = ()) -> Listing:
    """List the images that a table names; their paths are relative to the table's folder.

    Args:
        store: the folder with the table.
        files: what lies in it; says sizes and versions.
        name: the table's key.
        slice_names: columns to keep as slices.

    Raises:
        DatasetInvalid: the table cannot be read, lacks a column, or holds a line that cannot be meant.
    """
    table = _read(store, name, slice_names)
    files.fingerprint.add("manifest", name, *slice_names)
    entries = EntryTable.build(_entries(name, _with_sizes(table, files), slice_names), slice_names)
    if len(entries) == 0:
        raise DatasetInvalid(f"{name} lists no images.", "Write one line for each image.")
    return Listing(
        fingerprint=files.fingerprint.hex(),
        source=ObjectSource(store, "Manifest"),
        format="Manifest",
        total=len(entries),
        entries=entries,
        ignored=tuple(each for each in files.leftovers.some if each.kind not in _NO_MATTER),
        ignored_counts={
            kind: count for kind, count in files.leftovers.counts.items() if kind not in _NO_MATTER
        },
        slice_names=slice_names,
    )


def _read(store: Store, name: str, slice_names: tuple[str, ...]) -> pa.Table:
    """The wanted columns as strings, with the line numbers, sorted by path."""
    data = store.get(name)
    try:
        table = _read_csv(data, name) if name.lower().endswith(".csv") else pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DatasetInvalid(
            f"{name} cannot be read as a table ({str(error).splitlines()[0]}).",
            "Write a CSV file in UTF-8 with a header line, or a Parquet file.",
        ) from error
    table = table.rename_columns([column.strip() for column in table.column_names])
    wanted = [*REQUIRED, *(each for each in OPTIONAL if each in table.column_names), *slice_names]
    for column in wanted:
        count = table.column_names.count(column)
        if count != 1:
            problem = "has no column" if count == 0 else "has several columns"
            found = ", ".join(map(repr, table.column_names[:20]))
            raise DatasetInvalid(
                f"{name} {problem} {column!r}; its columns are {found}.",
                "Name path, label and each of spec.dataset.sliceColumns once in the header.",
            )
    texts = {column: _texts(table[column], name) for column in dict.fromkeys(wanted)}
    first = 2 if name.lower().endswith(".csv") else 1  # line 1 is the header
    lines = pa.array(range(first, table.num_rows + first), pa.int64())
    return pa.table({**texts, _LINE: lines}).sort_by([("path", "ascending"), (_LINE, "ascending")])


def _read_csv(data: bytes, name: str) -> pa.Table:
    head = data[:65_536].removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0]
    delimiter = max((",", ";", "\t"), key=lambda each: head.count(each.encode()))
    columns = pacsv.open_csv(
        io.BytesIO(data), parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    ).schema.names
    return pacsv.read_csv(
        io.BytesIO(data),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types={column: pa.string() for column in columns}, strings_can_be_null=False
        ),
    )


def _texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except pa.ArrowException as error:
        raise DatasetInvalid(
            f"{name} has a column of type {column.type}.", "Use text or numbers in the columns that are read."
        ) from error


def _with_sizes(table: pa.Table, files: Files) -> pa.Table:
    """Add each image's size; -1 for one that is not there (reading it will say so)."""
    where = pc.index_in(table["path"], value_set=files.table["path"].combine_chunks())
    return table.append_column("size", pc.fill_null(files.table["size"].take(where), -1))


def _entries(name: str, table: pa.Table, slice_names: tuple[str, ...]) -> Iterator[Entry]:
    for batch in table.to_batches(max_chunksize=4_096):
        for row in batch.to_pylist():
            yield _entry(name, row, slice_names)


def _entry(name: str, row: dict[str, str | int], slice_names: tuple[str, ...]) -> Entry:
    where = f"{name}, {'line' if name.lower().endswith('.csv') else 'row'} {row[_LINE]}:"
    path, label = str(row["path"]), str(row["label"]).strip()
    if not label:
        raise DatasetInvalid(f"{where} {path!r} has no label.", "Write one, or delete the line.")
    return Entry(
        path=_checked_path(where, path),
        label=label,
        split=_checked_split(where, str(row.get("split", ""))),
        weight=checked_weight(where, str(row.get("weight", ""))),
        size=int(row["size"]),
        slices=tuple(str(row[each]) for each in slice_names),
    )


def _checked_path(where: str, path: str) -> str:
    try:
        return check_key(path.removeprefix("./"))
    except KeyRefused as error:
        raise DatasetInvalid(
            f"{where} the path {path[:200]!r} does not stay below the table's folder.",
            "Write paths relative to the table, with / between folders and without '..'.",
        ) from error


def _checked_split(where: str, text: str) -> int:
    if not text.strip():
        return NO_SPLIT
    split = split_of(text)
    if split is None:
        raise DatasetInvalid(
            f"{where} {text!r} is not the name of a split.",
            f"Write one of {', '.join(SPLITS)}, or nothing to let the split be cut.",
        )
    return split


def checked_weight(where: str, text: str) -> float:
    """Read an image's weight; empty is 1.

    Raises:
        DatasetInvalid: it is no finite number from 0 to 1,000,000.
    """
    if not text.strip():
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= _MOST_WEIGHT:
        raise DatasetInvalid(f"{where} {text!r} is not a weight.", "Write a number from 0 to 1,000,000.")
    return weight
