"""What the Hugging Face hub refuses, in the words of a user who has to do something about it."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def refusal(error: BaseException, name: str, kind: str, revision: str | None = None) -> str | None:
    """Why the hub did not give the repository `name`, and what to do; None if `error` is of another kind.

    Args: `kind` is "model" or "data set"; `revision` is the commit that was asked for.
    """
    causes = list(_causes(error))
    page = f"https://huggingface.co/{'datasets/' if kind == 'data set' else ''}{name}"
    if any(isinstance(cause, GatedRepoError) for cause in causes):  # is a RepositoryNotFoundError, too
        return (
            f"{name!r} is a gated {kind}: accept its licence on {page}, make a token on "
            "https://huggingface.co/settings/tokens and export it as HF_TOKEN"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"the {kind} {name!r} has no revision {revision!r}; {page}/commits/main lists its commits"
    if any(isinstance(cause, RepositoryNotFoundError | DisabledRepoError) for cause in causes):
        return (
            f"there is no {kind} {name!r} on the hub (nor a file or folder of that name here), or it is private; "
            "check the name, or export HF_TOKEN if it is yours"
        )
    if any(unreachable(cause) for cause in causes):
        return (
            f"the hub cannot be reached for the {kind} {name!r} ({_first_line(error)}), and there is no file or folder "
            "of that name here"
        )
    return None


def unreachable(error: BaseException) -> bool:
    """Whether the hub did not answer: no network, a server's fault, or offline mode."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and (error.response.status_code >= 500 or error.response.status_code == 429)
    return isinstance(error, ConnectionError | TimeoutError | OfflineModeIsEnabled | LocalEntryNotFoundError) or (
        # The hub's client wraps one HTTP library or another, whose own errors get through.
        type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
