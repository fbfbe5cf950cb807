"""Sudoku sets of the Hugging Face hub, by its own client (extra `hub`)."""

from __future__ import annotations

from pathlib import Path

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.bucket import PASSING


def download(repo: str, filename: str) -> Path:
    """The local path of a data set's file, fetched once and cached by the client.

    The client's settings apply (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE). Raises `InputError` when the
    extra is not installed or the data set or file does not exist, `OutOfReach` when the hub does not answer.
    """
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise InputError("data.source=hub needs huggingface_hub: pip install 'trm_jax[hub]'") from None
    mend = "or use data.source=generated, or data.source=csv with data.path=FOLDER"
    try:
        return Path(hf_hub_download(repo_id=repo, filename=filename, repo_type="dataset"))
    except RepositoryNotFoundError:
        raise InputError(
            f"no data set {repo!r} on the hub (or it needs HF_TOKEN): check data.hub_repo, {mend}"
        ) from None
    except EntryNotFoundError as error:
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):  # local: neither cached nor reachable
            if constants.HF_HUB_OFFLINE:
                raise InputError(f"{repo}/{filename} is not cached here: unset HF_HUB_OFFLINE, {mend}") from None
            raise OutOfReach(f"cannot reach the hub for {repo}/{filename}: check the network, {mend}") from None
        raise InputError(f"the hub's data set {repo} has no file {filename}: check data.train_file, {mend}") from None
    except HfHubHTTPError as error:
        kind = OutOfReach if error.response.status_code in PASSING else InputError
        raise kind(f"cannot fetch {repo}/{filename} from the hub: {_reason(error)}: {mend}") from None
    except ValueError as error:
        raise InputError(f"{repo!r} is not the name of a hub data set: {_reason(error)}") from None
    except Exception as error:
        # Of what is left, only the network is the hub's: a full disk has a line of its own.
        if not (isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")):
            raise
        raise OutOfReach(f"the hub broke off {repo}/{filename}: {_reason(error)}: check the network, {mend}") from None


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
