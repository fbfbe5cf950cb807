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
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise InputError("data.source=hub needs huggingface_hub: pip install 'trm_jax[hub]'") from None
    mend = "or use data.source=generated, or data.source=csv with data.path=FOLDER"
    try:
        return Path(hf_hub_download(repo_id=repo, filename=filename, repo_type="dataset"))
    except errors.RepositoryNotFoundError:
        kind, said = InputError, f"no data set {repo!r} on the hub (or it needs HF_TOKEN): check data.hub_repo"
    except errors.LocalEntryNotFoundError:  # neither cached nor reachable
        if constants.HF_HUB_OFFLINE:
            kind, said = InputError, f"{repo}/{filename} is not cached here: unset HF_HUB_OFFLINE"
        else:
            kind, said = OutOfReach, f"cannot reach the hub for {repo}/{filename}: check the network"
    except errors.EntryNotFoundError:
        kind, said = InputError, f"the hub's data set {repo} has no file {filename}: check data.train_file"
    except errors.HfHubHTTPError as error:
        kind = OutOfReach if error.response.status_code in PASSING else InputError
        said = f"cannot fetch {repo}/{filename} from the hub: {_reason(error)}"
    except ValueError as error:
        kind, said = InputError, f"{repo!r} is not the name of a hub data set: {_reason(error)}"
    except Exception as error:
        # Of what is left, only the network is the hub's: a full disk has a line of its own.
        if not (isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")):
            raise
        kind, said = OutOfReach, f"the hub broke off {repo}/{filename}: {_reason(error)}: check the network"
    raise kind(f"{said}, {mend}")


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
