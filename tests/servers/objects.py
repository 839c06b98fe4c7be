"""An S3-compatible object store as an own process on loopback: moto's server, which checks who asks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.servers.servers import free_port, until

BUCKET = "lab"


class ObjectStore:
    """One bucket, and one user who may do everything with it. It forgets all when it ends."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        calls_until_it_asks_who = "4"
        with (folder / "moto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", "from moto.server import main; main()",
                    "-H", "127.0.0.1", "-p", str(self.port),
                ],
                env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": calls_until_it_asks_who},
                cwd=folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(self._answers, f"the start of moto's server, see {folder / 'moto.log'}")
        self.user, self.secret = self._fill()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _client(self, service: str, user: str = "root", secret: str = "root") -> Any:
        import boto3

        return boto3.client(
            service, endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=user, aws_secret_access_key=secret,
        )  # fmt: skip

    def _fill(self) -> tuple[str, str]:
        users = self._client("iam")
        users.create_user(UserName="study")
        key = users.create_access_key(UserName="study")["AccessKey"]
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        users.put_user_policy(UserName="study", PolicyName="all", PolicyDocument=policy)
        self._client("s3").create_bucket(Bucket=BUCKET)
        return key["AccessKeyId"], key["SecretAccessKey"]

    def environment(self, **changes: str) -> dict[str, str]:
        """What a lab sets."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.user,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **changes,
        }

    def uri(self, prefix: str, secret: str | None = None) -> str:
        """With all that is needed to reach it."""
        who = f"{self.user}:{quote(secret or self.secret, safe='')}"
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://{who}@{BUCKET}/{prefix}?{options}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Those that are no mark of an empty folder, as any other program sees them."""
        client = self._client("s3", self.user, self.secret)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        names = [one["Key"] for page in pages for one in page.get("Contents", [])]
        read = lambda name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read()  # noqa: E731
        return {name: read(name) for name in names if not name.endswith("/")}

    def pause(self) -> None:
        """As if its machine hung: it accepts connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
