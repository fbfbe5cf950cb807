"""What a run must know of its bucket: whether it may use it, and whether an error is the storage's or the data's.

gcsfs takes a missing bucket for an empty folder, and Orbax a refused permission for a damaged checkpoint.
"""

from __future__ import annotations

import jax
from etils import epath

from trm_jax.errors import InputError

_TENSORSTORE = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
_HTTP = (401, 403, 408, 429, *range(500, 600))


def require_access(folder: epath.Path, *, write: bool) -> None:
    """Raise InputError unless the bucket of `folder` (gs://bucket/...) is there and lets us in; to write, also
    unless it takes an object under `folder` and gives it up again.

    Asks for the permissions that checkpoints need: storage.buckets.get, storage.objects.create and .delete.
    """
    import gcsfs

    bucket = str(folder).split("/")[2]
    grant = (
        f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=ACCOUNT --role=ROLE, for the roles "
        "roles/storage.objectUser and roles/storage.legacyBucketReader"
    )
    doing = "look at"
    try:
        storage = gcsfs.GCSFileSystem()
        storage.call("GET", "b/{}", bucket, json_out=True)
        if write:
            probe = str(folder / f".access_{jax.process_index()}")
            doing = "write to"
            storage.pipe_file(probe, b"may a run write here and delete?")
            doing = "delete from"
            storage.rm_file(probe)
    except FileNotFoundError:
        raise InputError(f"there is no bucket gs://{bucket}; gcloud storage buckets create gs://{bucket}") from None
    except (OSError, gcsfs.retry.HttpError) as error:
        if getattr(error, "code", None) == 401:
            raise InputError(
                f"Google does not know who asks for {folder} (401); gcloud auth application-default login"
            ) from None
        if not str(error).startswith("Forbidden"):
            raise
        raise InputError(f"no permission to {doing} {folder} (403); {grant}") from None


def out_of_reach(error: BaseException) -> bool:
    """Whether the storage did not answer or did not let us in: nothing is known of the data then."""
    while error is not None:
        if isinstance(error, PermissionError | ConnectionError | TimeoutError):
            return True
        if type(error).__module__.partition(".")[0] in ("aiohttp", "requests"):
            return True
        if getattr(error, "code", None) in _HTTP or str(error).startswith(("Forbidden", *_TENSORSTORE)):
            return True
        error = error.__cause__ or error.__context__  # Orbax wraps what tensorstore says
    return False
