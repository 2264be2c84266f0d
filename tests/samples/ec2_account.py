"""An account of the fake EC2: two subnets, an image, and the configuration of the provider that uses them."""

import sys
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import boto3

from providers.exec import ExecSettings

PROGRAM: Final = Path(sys.executable).with_name("hostler-provider-ec2")
_REGION: Final = "eu-central-1"


class Account:
    """What the provider needs besides must be in AWS_ variables."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self.ec2: Any = boto3.client(
            "ec2", region_name=_REGION, endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test"
        )
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        cidrs = ("10.0.1.0/24", "10.0.2.0/24")
        self.subnets = [self.ec2.create_subnet(VpcId=vpc, CidrBlock=one)["Subnet"]["SubnetId"] for one in cidrs]
        self.image: str = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.config = directory / "ec2.toml"
        self.config.write_text(f'region = "{_REGION}"\nendpoint_url = "{url}"\nsubnets = {self.subnets}\n')

    def settings(self, executable: Path = PROGRAM, version: str = "v0.1.0") -> ExecSettings:
        return ExecSettings(
            name="ec2",
            executable=str(executable),
            config_file=str(self.config),
            interface_version=version,  # type: ignore[arg-type]
            environment=("AWS_",),
            timeout_seconds=60,
        )

    def alive(self) -> list[dict[str, Any]]:
        found = [one for page in self.ec2.describe_instances()["Reservations"] for one in page["Instances"]]
        return [one for one in found if one["State"]["Name"] not in ("shutting-down", "terminated")]

    def reset(self) -> None:
        urlopen(Request(f"{self._url}/moto-api/reset", method="POST")).close()  # noqa: S310 (our own)
