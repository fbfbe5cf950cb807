"""What a service account may do in a bucket, by the IAM policies of the bucket and of its project."""

from __future__ import annotations

from collections.abc import Mapping, Set

OBJECTS, BUCKET = "roles/storage.objectUser", "roles/storage.legacyBucketReader"
# What a run needs, and the roles that give as much. An owner of a bucket may make and delete objects, and read its own.
_AS_MUCH = {
    OBJECTS: {OBJECTS, "roles/storage.objectAdmin", "roles/storage.admin", "roles/storage.legacyBucketOwner"},
    BUCKET: {
        BUCKET,
        "roles/storage.legacyBucketWriter",
        "roles/storage.legacyBucketOwner",
        "roles/storage.bucketViewer",
        "roles/storage.admin",
    },
}
# Who has one of these in a project gets what the bucket gives to all of that kind, by default legacyBucketOwner to
# editors and owners; the roles themselves hold no right to objects.
_BASIC = {"roles/owner": "projectOwner", "roles/editor": "projectEditor", "roles/viewer": "projectViewer"}
_EVERYBODY = {"allUsers", "allAuthenticatedUsers"}


def missing(account: str, project: str, of_bucket: Mapping, of_project: Mapping) -> list[str]:
    """Of the roles that a run needs in a bucket those for which neither policy gives the service account as much.

    Policies as gcloud prints them. What holds under a condition, for a group or by a role of the user's does not count.
    """
    member = f"serviceAccount:{account}"
    in_project = _roles(of_project, {member})
    kinds = {f"{kind}:{project}" for role, kind in _BASIC.items() if role in in_project}
    held = in_project | _roles(of_bucket, {member, *kinds, *_EVERYBODY})
    return [role for role, enough in _AS_MUCH.items() if not held & enough]


def _roles(policy: Mapping, members: Set[str]) -> set[str]:
    bindings = policy.get("bindings", ())
    return {one["role"] for one in bindings if members & set(one["members"]) and "condition" not in one}


def grant(bucket: str, member: str, role: str) -> str:
    """The command that gives a role in gs://BUCKET to user:NAME or serviceAccount:NAME."""
    return f"gcloud storage buckets add-iam-policy-binding {bucket} --member={member} --role={role}"
