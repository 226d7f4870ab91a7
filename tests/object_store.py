"""Moto's S3 server with the files of a folder in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

KEY, SECRET = "key", "secret"


@contextlib.contextmanager
def object_store(root: Path) -> Iterator[str]:
    """Serve a copy of the files `root/BUCKET/NAME`; gives the endpoint's address."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        secrets = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **secrets)
        for bucket in root.iterdir():
            client.create_bucket(Bucket=bucket.name)
            for file in bucket.rglob("*"):
                if file.is_file():
                    client.upload_file(str(file), bucket.name, file.relative_to(bucket).as_posix())
        client.close()
        yield address
    finally:
        server.stop()
