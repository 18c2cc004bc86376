"""Data sets of the Hugging Face hub, at a known commit.

The library downloads them once, keeps them on disk and maps them into memory, so that a row is in memory only while
it is read. A file or folder of one's own in `data.path` takes the place of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tr_align.errors import UserError
from tr_align.hub import refusal, unreachable

PINNED = {
    # Each commit was the newest of its data set in the public source named beside it; all hold the data.
    "Anthropic/hh-rlhf": "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",  # used by several projects on GitHub
    "HuggingFaceH4/ultrafeedback_binarized": "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",  # as above
    "HuggingFaceH4/ultrachat_200k": "8049631c405ae6576f93f445c6b8166f76f5505a",  # as above
    "trl-lib/tldr": "21233da376667088e6eb1ce4ce19ed832c2935d3",  # huggingface.co/datasets/trl-lib/tldr/tree/21233da…
    "princeton-nlp/llama3-ultrafeedback": "0e4d731abdb5f215085bbd92d0c2fcad7e080a4f",  # its page …/tree/0e4d731…
    "princeton-nlp/llama3-ultrafeedback-armorm": "5a7ec94b4d9dceeaba4094084407ce7029e68c57",  # its page …/tree/5a7ec94…
}
"""The commits that are read where no revision is set; the newest of any other data set, which is recorded."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Published:
    """How a source is published.

    `name` is its id on the hub. `splits` are the splits that are read by default: the first of them that there is.
    `folders` says what `data.subsets` selects: the repository's folders, or else its splits.
    """

    name: str
    splits: tuple[str, ...]
    folders: bool = False


def read(
    name: str, published: Published, revision: str | None, subsets: Sequence[str] | None, key: str
) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The commit of a data set of the hub, and its rows with their place (`name/subset:row`).

    Args: `name` is the data set's id, laid out as `published`; `key` is "data" or "data.sft", for messages.
    Raises:
        UserError: the hub cannot be reached, or the data set, its revision or a subset is not there, or is not to be
            had without a token or without running its code.
    """
    revision = revision or PINNED.get(name)
    commit = _commit(name, revision, key)
    folders: Sequence[str | None] = [None]
    if published.folders and subsets:
        folders = subsets if commit is None else choose(subsets, _folders(name, commit), (), name, key)
    parts: list[tuple[str, Any]] = []
    for folder in folders:
        builder = _builder(name, folder, commit, revision, key)
        _check_commit(builder.hash, name, commit or revision, key)
        commit = str(builder.hash)
        wanted = choose(None if published.folders else subsets, list(builder.info.splits), published.splits, name, key)
        parts += [(f"{name}/{folder or split}", builder.as_dataset(split=split)) for split in wanted]
    assert commit is not None
    return commit, ((f"{where}:{number}", row) for where, rows in parts for number, row in enumerate(rows, 1))


def choose(
    subsets: Sequence[str] | None, there: Sequence[str], preferred: Sequence[str], where: object, key: str
) -> list[str]:
    """The subsets that are asked for, or the first of `preferred` that is there (or none).

    Raises:
        UserError: one that is asked for is not there; those that are get listed.
    """
    if subsets is None:
        return [name for name in preferred if name in there][:1]
    for name in subsets:
        if name not in there:
            raise UserError(f"{key}.subsets: {where} has no {name!r}; it has {', '.join(sorted(there)) or 'none'}")
    return list(dict.fromkeys(subsets))


def _commit(name: str, revision: str | None, key: str) -> str | None:
    """The full id of the commit that `revision` (None: the newest) names, or None if the hub is out of reach."""
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(name, repo_type="dataset")  # anyone may ask for a gated data set's commit, but not for rows
        return HfApi().dataset_info(name, revision=revision, timeout=60).sha
    except Exception as error:  # the client has errors of a dozen kinds
        if unreachable(error):
            return None
        raise _refused(error, name, revision, key) from error


def _check_commit(found: str, name: str, wanted: str | None, key: str) -> None:
    """The library takes what it has kept, of whatever commit, when the hub does not answer."""
    if wanted and _COMMIT.fullmatch(wanted) and found != wanted:
        raise UserError(
            f"{key}.revision: the hub cannot be reached, and of {name!r} only the revision {found} is kept here, not "
            f"{wanted}; connect, or give {key}.path a local copy of its files"
        )


def _builder(name: str, folder: str | None, commit: str | None, revision: str | None, key: str) -> Any:
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(name, data_dir=folder, revision=commit or revision)
        builder.download_and_prepare()
    except Exception as error:
        if commit is None and "Couldn't find cache" in str(error):
            raise UserError(
                f"{key}.path: the hub cannot be reached, and of {name!r} only other parts are kept here; connect, or "
                f"give {key}.path a local copy of its files"
            ) from error
        raise _refused(error, name, revision, key) from error
    return builder


def _folders(name: str, commit: str) -> list[str]:
    """The folders at the top of the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFolder

    tree = HfApi().list_repo_tree(name, repo_type="dataset", revision=commit)
    return [entry.path for entry in tree if isinstance(entry, RepoFolder)]


def _refused(error: Exception, name: str, revision: str | None, key: str) -> UserError:
    text = refusal(error, name, "data set", revision)
    if text is None and "scripts are no longer supported" in str(error):
        text = f"the data set {name!r} can only be read by running its own code, which is never done"
    if text is None:
        text = f"the data set {name!r} cannot be loaded from the hub ({type(error).__name__}: {error})"
    return UserError(f"{key}.path: {text}. Or give {key}.path a local copy of its files")
