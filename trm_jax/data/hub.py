"""Sudoku sets of the Hugging Face hub, by its own client (extra `hub`)."""

from __future__ import annotations

from pathlib import Path

from trm_jax.errors import InputError


def download(repo: str, filename: str) -> Path:
    """The local path of a data set's file, fetched once and cached by the client.

    The client's settings apply (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE). Raises `InputError` when the
    extra is not installed, the data set or file does not exist, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise InputError("data.source=hub needs huggingface_hub: pip install 'trm_jax[hub]'") from None
    mend = "or use data.source=generated, or data.source=csv with data.path=FOLDER"
    try:
        return Path(hf_hub_download(repo_id=repo, filename=filename, repo_type="dataset"))
    except RepositoryNotFoundError:
        raise InputError(
            f"the hub has no data set {repo!r} (or it needs HF_TOKEN): check data.hub_repo, {mend}"
        ) from None
    except EntryNotFoundError as error:
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):  # local: neither cached nor reachable
            raise InputError(f"cannot reach the hub for {repo}/{filename}: check the network, {mend}") from None
        raise InputError(f"the hub's data set {repo} has no file {filename}: check data.train_file, {mend}") from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot fetch {repo}/{filename} from the hub: {reason}: check the network, {mend}") from None
    except ValueError as error:
        raise InputError(f"{repo!r} is not the name of a hub data set: {str(error).splitlines()[0]}") from None
