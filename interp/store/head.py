"""``store.json``: what a store is, and what all its runs have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_hexdigest

from interp.errors import StoreError
from interp.store.disk import locked, read_small, write_whole
from interp.store.layout import from_json, to_json
from interp.store.manifest import LIST

FORMAT = "wan-interp-store"
VERSION = 1
LARGEST = 1 << 26
HEAD = "store.json"
FOLDERS = ("runs", "consolidated")


def begin(path: Path, provenance: Mapping[str, Any]) -> None:
    """Make a folder a store, or see that the one that is there is of this provenance; others may do so meanwhile.

    Args:
        path: the folder; made if missing.
        provenance: what all runs have in common.

    Raises:
        StoreError: the folder holds something else, or a store of other provenance.
        OSError: the disk did not take it.
    """
    given = from_json(to_json(dict(provenance), "provenance of the store").encode())
    path.mkdir(parents=True, exist_ok=True)
    if not _is_of(path, given):
        if any(each.name not in (HEAD, LIST, FOLDERS[0]) and ".tmp." not in each.name for each in path.iterdir()):
            raise StoreError(f"{path} is neither empty nor a store; give a new folder")
        with locked(path / LIST) as fd:
            if not _is_of(path, given):
                if os.fstat(fd).st_size:
                    raise StoreError(f"{path} lists runs and has lost its {HEAD}; give a new folder")
                write_head(path, given)
    (path / FOLDERS[0]).mkdir(exist_ok=True)


def _is_of(path: Path, given: Mapping[str, Any]) -> bool:
    """Is there a store of that provenance? False if there is none."""
    if not (path / HEAD).is_file():
        return False
    differ = differences(read_head(path), given)
    if differ:
        raise StoreError(f"{path} holds a store of other provenance ({differ}); give another folder")
    return True


def write_head(path: Path, provenance: Mapping[str, Any]) -> None:
    """Make a folder a store.

    Raises:
        OSError: the disk did not take it.
    """
    body = {"format": FORMAT, "version": VERSION, "provenance": provenance}
    body["xxh3"] = xxh3_64_hexdigest(to_json(body, "head").encode())
    write_whole(path / HEAD, json.dumps(body, indent=1, sort_keys=True).encode() + b"\n")


def read_head(path: Path) -> dict[str, Any]:
    """The provenance of a store.

    Raises:
        StoreError: there is no store, or it is damaged, of another version or leads out of its folder.
    """
    head = path / HEAD
    try:
        body = from_json(read_small(head, LARGEST))
    except OSError as error:
        raise StoreError(f"{path} is not a store: {head.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise StoreError(f"{head} is damaged: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise StoreError(f"{path} is not a store: {head.name} is of something else")
    if body.get("version") != VERSION:
        raise StoreError(f"{path} has format version {body.get('version')!r}, and this release reads version {VERSION}")
    if body.pop("xxh3", None) != xxh3_64_hexdigest(to_json(body, "head").encode()):
        raise StoreError(f"{head} is damaged: it does not match its checksum")
    if not isinstance(body.get("provenance"), dict):
        raise StoreError(f"{head} makes no sense: its provenance is {type(body.get('provenance')).__name__}")
    for folder in FOLDERS:
        if (path / folder).is_symlink():
            raise StoreError(
                f"{path / folder} is a symbolic link, and a store reads and writes nothing outside its folder; "
                "to keep it on another disk, move the whole store there"
            )
    return dict(body["provenance"])


def differences(
    have: Mapping[str, Any], given: Mapping[str, Any], where: tuple[str, str] = ("there", "here")
) -> str | None:
    """In what two provenances differ, as part of a sentence; "versions" may differ."""
    differ = sorted(k for k in have.keys() | given.keys() if k != "versions" and have.get(k) != given.get(k))
    said = (f"{k} is {have.get(k)!r} {where[0]} and {given.get(k)!r} {where[1]}" for k in differ[:3])
    return "; ".join(said) or None
