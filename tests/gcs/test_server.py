"""The storage that the other tests stand on behaves as Google's documentation says, seen through Google's client."""

import http.client
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from google.api_core.exceptions import Forbidden, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from hypothesis import given
from hypothesis import strategies as st

from tests.gcs.server import CHUNK_BYTES, Gcs
from tests.gcs.storage import Fault, page

names = st.lists(st.text("ab/-é", min_size=1, max_size=5), unique=True).map(sorted)
offsets = st.sampled_from(["", "a", "a/", "a/b", "b", "é"])


@given(names, st.sampled_from(["", "/", "b/"]), offsets, offsets, offsets, st.integers(1, 4))
def test_the_pages_of_a_listing_are_the_whole_of_it(names, delimiter, prefix, start, end, limit):
    query = {"delimiter": delimiter, "prefix": prefix, "startOffset": start, "endOffset": end}
    found, prefixes = [], []
    while True:
        more, more_prefixes, token = page(names, query, limit)
        assert len(more) + len(more_prefixes) <= limit
        found, prefixes = found + more, prefixes + more_prefixes
        if not token:
            break
        query["pageToken"] = token

    listed = [name for name in names if name.startswith(prefix) and name >= start and (not end or name < end)]
    split = [name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "") for name in listed]
    assert found == [name for name, (_, mark, _) in zip(listed, split, strict=True) if not mark]
    assert prefixes == sorted({prefix + head + mark for head, mark, _ in split if mark})


@pytest.fixture
def gcs():
    with Gcs("bucket", page_size=3) as gcs:
        yield gcs


@pytest.fixture
def bucket(gcs):
    client = storage.Client("project", AnonymousCredentials(), client_options={"api_endpoint": gcs.url})
    yield client.get_bucket("bucket")
    client.close()


def test_objects_through_the_client_of_google(bucket):
    content = bytes(range(256)) * 2500  # 640,000 bytes: two whole chunks and a part
    whole = bucket.blob("folder/whole é.bin", chunk_size=CHUNK_BYTES)
    whole.upload_from_string(content)  # resumable, since it has a chunk size
    small = bucket.blob("folder/small")
    small.upload_from_string("--==\r\n\r\n")  # multipart
    assert whole.download_as_bytes() == content
    assert small.download_as_bytes(raw_download=True) == b"--==\r\n\r\n"
    assert whole.download_as_bytes(start=300, end=309) == content[300:310]
    assert whole.download_as_bytes(start=len(content) - 7) == content[-7:]

    copy = bucket.blob("folder/copy")
    copy.rewrite(whole)
    assert copy.download_as_bytes() == content
    moved = bucket.copy_blob(small, bucket, "moved")
    assert moved.generation > copy.generation > whole.generation

    assert [blob.name for blob in bucket.list_blobs()] == sorted(
        ["folder/copy", "folder/small", "folder/whole é.bin", "moved"]
    )
    assert [b.name for b in bucket.list_blobs(start_offset="folder/t", end_offset="n")] == [whole.name, "moved"]
    with bucket.client.batch():
        bucket.delete_blob("folder/copy")
        bucket.delete_blob("moved")
    assert [blob.name for blob in bucket.list_blobs(prefix="m")] == []
    with pytest.raises(NotFound):
        bucket.delete_blob("moved")


def test_of_those_who_create_an_object_at_once_one_succeeds(bucket):
    def create(number):
        try:
            bucket.blob("lock").upload_from_string(str(number), if_generation_match=0)
        except PreconditionFailed:
            return None
        return str(number).encode()

    with ThreadPoolExecutor(8) as pool:
        (winner,) = filter(None, pool.map(create, range(8)))
    lock = bucket.get_blob("lock")
    assert lock.download_as_bytes() == winner
    with pytest.raises(PreconditionFailed):
        lock.delete(if_generation_match=lock.generation + 1)
    lock.delete(if_generation_match=lock.generation)
    assert not lock.exists()


def test_what_it_does_not_know_it_refuses(gcs):
    for query in ("ifMetagenerationMatch=1", "kmsKeyName=key"):
        assert requests.get(f"{gcs.url}/storage/v1/b/bucket/o/name?{query}").status_code == 400
    assert requests.post(f"{gcs.url}/storage/v1/b").status_code == 400


def test_faults_strike_the_requests_they_name_and_no_others(gcs, bucket):
    bucket.blob("a/1").upload_from_string("1")
    gcs.inject(Fault("write", "a/", status=403, count=2))
    for _ in range(2):
        with pytest.raises(Forbidden):
            bucket.blob("a/1").upload_from_string("2")
    bucket.blob("b").upload_from_string("3")
    assert gcs.get("a/1").content == b"1"
    bucket.blob("a/1").upload_from_string("4")
    assert gcs.get("a/1").content == b"4"

    slow = gcs.inject(Fault("read", status=-1, delay_s=60))
    with ThreadPoolExecutor(1) as pool:
        address = urllib.parse.urlparse(gcs.url).netloc
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/storage/v1/b/bucket/o/b?alt=media")
        answer = pool.submit(connection.getresponse)
        assert slow.struck.acquire(timeout=30) and not answer.done()
        gcs.heal()
        with pytest.raises(http.client.RemoteDisconnected):
            answer.result()
        connection.close()
    assert bucket.blob("b").download_as_bytes() == b"3"
