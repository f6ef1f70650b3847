"""From what a user names to a path that is there."""

from __future__ import annotations

import os
from pathlib import Path

from arrowquant._files import user_path
from arrowquant._scan import hub
from arrowquant._scan.recognise import KNOWN_SUFFIXES, check_exists


def existing_path(source: str | os.PathLike[str]) -> Path:
    """The path that a user named: links are not resolved, since what belongs to it lies beside it.

    A model of the Hugging Face Hub, `org/name`, or its directory in the cache, is its snapshot.

    Raises:
        OSError: There is nothing of that name.
        ValueError: It is a URL.
    """
    path, text = user_path(source), str(source)
    if path.exists():
        found = hub.cached(path) if path.is_dir() else None
        return path if found is None else found
    is_file = path.suffix.lower() in KNOWN_SUFFIXES
    if hub.looks_like_name(text) and not is_file and not path.parent.exists():
        return hub.snapshot(text)
    check_exists(source)
    return path
