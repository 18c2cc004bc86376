"""Upload a model to the Hugging Face hub, or to any server that speaks its protocol (HF_ENDPOINT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

from tr_align.errors import UserError
from tr_align.hub import unreachable

Files = Mapping[str, Path | bytes]
"""What is published, by name: a file, or its contents."""

PLACES = ("method", "seed")


def repository(pattern: str, method: str, seed: int) -> str:
    """The repository's id from a pattern as `alice/smollm2-{method}`.

    Raises:
        UserError: the pattern has an unknown part in braces, or the hub allows no such id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    known = dict(zip(PLACES, (method, seed), strict=True))
    try:
        fields = [field for _, field, _, _ in Formatter().parse(pattern) if field is not None]
        unknown = [field for field in fields if field not in known]
        if unknown:
            raise UserError(f"--to: {{{unknown[0]}}} is unknown; there are {{method}} and {{seed}}")
        name = pattern.format(**known)
        if not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
            raise UserError(f"--to: {name!r} is no repository; write OWNER/NAME, e.g. alice/smollm2-{{method}}")
        validate_repo_id(name)
    except (HFValidationError, ValueError) as error:
        raise UserError(f"--to: {pattern!r} gives no repository of the hub: {error}") from error
    return name


def check_token() -> None:
    """Refuse to start without a token.

    Raises:
        UserError: there is none.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("there is no token for the Hugging Face hub; set HF_TOKEN or log in with `hf auth login`")


def upload(name: str, files: Files, private: bool, message: str) -> str:
    """Make the repository if there is none, and make its model these files; other files in it stay.

    Weights that an earlier upload left under other names are removed: transformers would go on loading them.
    Returns: the address of the commit.
    Raises:
        UserError: the hub refuses the token or the repository, or cannot be reached; a private repository is asked for
            and this one is public.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        there = api.model_info(name)
        if private and not there.private:
            raise UserError(f"{name}: exists and is public; make it private on the hub first, or choose another name")
        additions = [CommitOperationAdd(path, file) for path, file in files.items()]
        names = [entry.rfilename for entry in there.siblings or []]
        left = [CommitOperationDelete(path) for path in names if path not in files and _is_weights(path)]
        return str(api.create_commit(name, [*additions, *left], commit_message=message).commit_url)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            owner = name.partition("/")[0]
            raise UserError(
                f"{name}: the hub refuses the token (status {status}); it needs the right to write to {owner}"
            ) from error
        reason = error.server_message or f"status {status}"
        raise UserError(f"{name}: the hub does not take the upload: {reason}") from error
    except Exception as error:  # the HTTP library's own come through
        if not unreachable(error):
            raise
        raise UserError(f"{name}: {api.endpoint} cannot be reached ({error}); publish again when it can") from error


def _is_weights(path: str) -> bool:
    return "/" not in path and path.endswith((".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"))
