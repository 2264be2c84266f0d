"""A provider executable for EC2: GARM's external-provider contract, v0.1.0 and v0.1.1, on boto3.

One call, one process: the command and all it needs are in GARM_ variables, CreateInstance reads its bootstrap
parameters from standard input, answers are JSON on standard output, everything else goes to standard error.
"""

import base64
import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

VERSION: Final = "hostler-ec2 1.0"
INTERFACES: Final = ("v0.1.0", "v0.1.1")
FAILED, NOT_FOUND, DUPLICATE = 1, 30, 31
CONTROLLER, POOL, NAME = "GARM_CONTROLLER_ID", "GARM_POOL_ID", "Name"
ALIVE: Final = ("pending", "running", "stopping", "stopped")
STATUS: Final = {"pending": "running", "running": "running", "stopping": "stopped", "stopped": "stopped"}
NEXT_PLACE: Final = frozenset(
    {"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported"}
)
"""The next subnet or type may do. Codes: EC2 API reference, "Error codes"."""
TRIES: Final = 10
NO_SPOT: Final = frozenset({"SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded"})

KINDS: Final[Mapping[str, Any]] = {"array": list, "boolean": bool, "integer": int, "object": dict, "string": str}
STRINGS: Final = {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}
PLACES: Final = {
    "subnets": {**STRINGS, "minItems": 1, "description": "tried in turn"},
    "security_groups": STRINGS,
    "spot": {"enum": ["never", "first", "only"], "description": "first: on-demand where there is no spot capacity"},
    "disk_gib": {"type": "integer", "minimum": 1},
    "instance_profile": {"type": "string", "description": "name; jobs can use its rights, so rather none"},
    "public_address": {"type": "boolean"},
}
CONFIG_SCHEMA: Final[Mapping[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "region": {"type": "string", "minLength": 1},
        "endpoint_url": {"type": "string", "description": "another API than AWS's, for tests"},
        "profile": {"type": "string", "description": "of ~/.aws: pass HOME on for it"},
        **PLACES,
    },
    "required": ["region", "subnets"],
    "additionalProperties": False,
}
EXTRA_SPECS_SCHEMA: Final[Mapping[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        **PLACES,
        "instance_types": {**STRINGS, "description": "tried in turn after the pool's flavor"},
        "runner_install_template": {"type": "string", "contentEncoding": "base64"},
        "extra_context": {"type": "object"},
    },
    "additionalProperties": False,
}


class Refused(Exception):
    """What cannot be done, and the exit code that says so."""

    def __init__(self, reason: str, code: int = FAILED) -> None:
        super().__init__(reason)
        self.code = code


def variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise Refused(f"{name} is not set")
    return value


class Cloud:
    """What one call needs of EC2."""

    def __init__(self, config: Mapping[str, Any], controller: str, pool: str) -> None:
        self.config = config
        self.controller = controller
        self.pool = pool
        session = boto3.Session(region_name=config["region"], profile_name=config.get("profile"))
        # The caller has a deadline and tries again: what hangs here for long is worth nothing.
        patience = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4})
        self.ec2 = session.client("ec2", endpoint_url=config.get("endpoint_url"), config=patience)

    # --- create ---

    def create(self, bootstrap: Mapping[str, Any]) -> dict[str, Any]:
        """The first place that has room gets it. Each place has a client token of its own that follows from the name:
        asked again after a crash, a place that has made the machine answers with that very one (EC2, RunInstances,
        ClientToken), and its tags are on it from the start, so whatever is made can be found and deleted."""
        name, specs = bootstrap["name"], {**self.config, **(bootstrap.get("extra_specs") or {})}
        if list(self.found(name)):
            raise Refused(f"there is an instance '{name}' already", DUPLICATE)
        full: list[str] = []
        for market, kind, subnet in places(bootstrap["flavor"], specs):
            try:
                made = self.run(self.request(bootstrap, specs, market, kind, subnet))
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code not in NEXT_PLACE and not (market == "spot" and code in NO_SPOT):
                    raise
                full.append(f"{market} {kind} in {subnet}: {code}")
                print(f"no room: {full[-1]}", file=sys.stderr)
                continue
            return described(made)
        raise Refused("no place has room: " + "; ".join(full))

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """A token that was used answers with its machine, also when that was terminated: GARM uses names again."""
        for number in range(TRIES):
            token = hashlib.sha256(f"{request['ClientToken']}:{number}".encode()).hexdigest()
            made: dict[str, Any] = self.ec2.run_instances(**{**request, "ClientToken": token})["Instances"][0]
            if made["State"]["Name"] in ALIVE:
                return made
        raise Refused(f"its {TRIES} machines before were terminated; take another name")

    def request(
        self, bootstrap: Mapping[str, Any], specs: Mapping[str, Any], market: str, kind: str, subnet: str
    ) -> dict[str, Any]:
        name = bootstrap["name"]
        tags = {NAME: name, CONTROLLER: self.controller, POOL: self.pool, "OSType": bootstrap["os_type"]}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}
        if "public_address" in specs:
            interface["AssociatePublicIpAddress"] = specs["public_address"]
        if specs.get("security_groups"):
            interface["Groups"] = specs["security_groups"]
        request: dict[str, Any] = {
            "ClientToken": ":".join([self.controller, name, market, kind, subnet]),
            "ImageId": bootstrap["image"],
            "InstanceType": kind,
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [interface],
            "TagSpecifications": [{"ResourceType": what, "Tags": listed} for what in ("instance", "volume")],
            "UserData": user_data(bootstrap),
            # The bootstrap token is in the user data: only the new way to it, and not from inside a container.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "InstanceInitiatedShutdownBehavior": "terminate",
        }
        if market == "spot":
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
        if specs.get("instance_profile"):
            request["IamInstanceProfile"] = {"Name": specs["instance_profile"]}
        if specs.get("disk_gib"):
            request["BlockDeviceMappings"] = [self.disk(bootstrap["image"], specs["disk_gib"])]
        return request

    def disk(self, image: str, gib: int) -> dict[str, Any]:
        images = self.ec2.describe_images(ImageIds=[image])["Images"]
        if not images:
            raise Refused(f"there is no image '{image}'")
        return {
            "DeviceName": images[0]["RootDeviceName"],
            "Ebs": {"VolumeSize": gib, "VolumeType": "gp3", "DeleteOnTermination": True},
        }

    # --- what there is ---

    def instances(self, **tags: str) -> Iterator[dict[str, Any]]:
        """Ours that are not terminated, by these tags."""
        wanted = {f"tag:{CONTROLLER}": self.controller, **{f"tag:{key}": value for key, value in tags.items()}}
        filters = [{"Name": key, "Values": [value]} for key, value in wanted.items()]
        filters.append({"Name": "instance-state-name", "Values": list(ALIVE)})
        for page in self.ec2.get_paginator("describe_instances").paginate(Filters=filters):
            for reservation in page["Reservations"]:
                yield from reservation["Instances"]

    def found(self, wanted: str) -> Iterator[dict[str, Any]]:
        """By name or id. There may be two of a name, when a spent spot place made one late."""
        if wanted.startswith("i-"):
            by_id = (one for one in self.instances() if one["InstanceId"] == wanted)
            yield from by_id
        else:
            yield from self.instances(**{NAME: wanted})

    def ids(self, wanted: str) -> list[str]:
        ids = [one["InstanceId"] for one in self.found(wanted)]
        if not ids:
            raise Refused(f"there is no instance '{wanted}'", NOT_FOUND)
        return ids


def places(flavor: str, specs: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Market, type and subnet: all spot before the first on-demand, a better type before another subnet's worse one."""
    markets = {"never": ["on-demand"], "first": ["spot", "on-demand"], "only": ["spot"]}[specs.get("spot", "never")]
    kinds = list(dict.fromkeys([flavor, *specs.get("instance_types", [])]))
    yield from product(markets, kinds, specs["subnets"])


def user_data(bootstrap: Mapping[str, Any]) -> str:
    """The caller's wrapper script. EC2 hands it to cloud-init, or to EC2Launch when it is PowerShell."""
    wrapper = (bootstrap.get("extra_specs") or {}).get("runner_install_template")
    if not wrapper:
        raise Refused("extra_specs has no runner_install_template: the caller is to send what the machine runs first")
    text = base64.b64decode(wrapper, validate=True).decode()
    if bootstrap["os_type"] == "windows" and "<powershell>" not in text:
        text = f"<powershell>\n{text}\n</powershell>"
    if len(text.encode()) > 16 * 1024:
        raise Refused("user data is larger than the 16 KiB that EC2 takes")
    return text


def described(one: Mapping[str, Any]) -> dict[str, Any]:
    """An instance as the contract wants it told."""
    tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
    kinds = (("private", one.get("PrivateIpAddress")), ("public", one.get("PublicIpAddress")))
    return {
        "provider_id": one["InstanceId"],
        "name": tags.get(NAME, one["InstanceId"]),
        "os_type": tags.get("OSType", "linux"),
        "os_arch": {"x86_64": "amd64"}.get(one.get("Architecture", ""), one.get("Architecture", "")),
        "addresses": [{"address": address, "type": kind} for kind, address in kinds if address],
        "status": STATUS.get(one["State"]["Name"], "unknown"),
    }


def checked(document: Mapping[str, Any], schema: Mapping[str, Any], what: str) -> None:
    """As far as our own schemas go, without a library."""
    unknown = sorted(set(document) - set(schema["properties"]))
    if unknown:
        raise Refused(f"{what}: unknown keys {', '.join(unknown)}; known are {', '.join(schema['properties'])}")
    missing = [key for key in schema.get("required", []) if key not in document]
    if missing:
        raise Refused(f"{what}: {', '.join(missing)} must be given")
    for key, value in document.items():
        for reason in faults(value, schema["properties"][key]):
            raise Refused(f"{what}: {key} {reason}")


def faults(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a value. Quotes none: it may be a secret."""
    if "enum" in schema:
        if value not in schema["enum"]:
            yield f"must be one of {', '.join(schema['enum'])}"
        return
    kind = schema["type"]
    # To Python, true and false are numbers.
    if not isinstance(value, KINDS[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield f"must be of type {kind}"
    elif kind == "integer" and value < schema.get("minimum", value):
        yield f"must be {schema['minimum']} at least"
    elif (kind == "string" and len(value) < schema.get("minLength", 0)) or (
        kind == "array" and len(value) < schema.get("minItems", 0)
    ):
        yield "must not be empty"
    elif kind == "array":
        yield from (f"has an element that {fault}" for one in value for fault in faults(one, schema["items"]))
        if schema.get("uniqueItems") and any(value.count(one) > 1 for one in value):
            yield "names something twice"


def given_extra_specs() -> dict[str, Any]:
    """Base64 of JSON, of `null` where there are none; v0.1.0 does not set the variable at all."""
    encoded = os.environ.get("GARM_POOL_EXTRASPECS", "")
    return (json.loads(base64.b64decode(encoded, validate=True)) if encoded else None) or {}


def create(cloud: Cloud) -> object:
    bootstrap = json.load(sys.stdin)
    checked(bootstrap.get("extra_specs") or {}, EXTRA_SPECS_SCHEMA, "extra_specs")
    cloud.pool = cloud.pool or bootstrap["pool_id"]
    return cloud.create(bootstrap)


def get(cloud: Cloud) -> object:
    wanted = variable("GARM_INSTANCE_ID")
    cloud.ids(wanted)
    return described(next(cloud.found(wanted)))


def listed(cloud: Cloud) -> object:
    return [described(one) for one in cloud.instances(**{POOL: variable("GARM_POOL_ID")})]


def remove_all(cloud: Cloud) -> None:
    """Of the pool; v0.1.0 names none, and means all of the controller."""
    ids = [one["InstanceId"] for one in cloud.instances(**({POOL: cloud.pool} if cloud.pool else {}))]
    if ids:
        cloud.ec2.terminate_instances(InstanceIds=ids)


def delete(cloud: Cloud) -> None:
    cloud.ec2.terminate_instances(InstanceIds=cloud.ids(variable("GARM_INSTANCE_ID")))


def start(cloud: Cloud) -> None:
    cloud.ec2.start_instances(InstanceIds=cloud.ids(variable("GARM_INSTANCE_ID")))


def stop(cloud: Cloud) -> None:
    cloud.ec2.stop_instances(InstanceIds=cloud.ids(variable("GARM_INSTANCE_ID")))


DESCRIBING: Final[Mapping[str, object]] = {
    "GetVersion": VERSION,
    "GetSupportedInterfaceVersions": list(INTERFACES),
    "GetConfigJSONSchema": CONFIG_SCHEMA,
    "GetExtraSpecsJSONSchema": EXTRA_SPECS_SCHEMA,
}
COMMANDS: Final[Mapping[str, Callable[[Cloud], object]]] = {
    "CreateInstance": create,
    "DeleteInstance": delete,
    "GetInstance": get,
    "ListInstances": listed,
    "RemoveAllInstances": remove_all,
    "StartInstance": start,
    "StopInstance": stop,
}


def main() -> object:
    """The answer, to be printed; None: there is none."""
    command = variable("GARM_COMMAND")
    version = os.environ.get("GARM_INTERFACE_VERSION") or INTERFACES[0]
    if version not in INTERFACES:
        raise Refused(f"does not implement {version}")
    if command in DESCRIBING:
        return DESCRIBING[command]
    config = tomllib.loads(Path(variable("GARM_PROVIDER_CONFIG_FILE")).read_text())
    checked(config, CONFIG_SCHEMA, "configuration")
    if command == "ValidatePoolInfo":
        checked(given_extra_specs(), EXTRA_SPECS_SCHEMA, "extra_specs")
        return None
    if command not in COMMANDS:
        raise Refused(f"unknown command '{command}'")
    return COMMANDS[command](Cloud(config, variable(CONTROLLER), os.environ.get(POOL, "")))


def fail(reason: object, code: int = FAILED) -> NoReturn:
    print(f"hostler-ec2: {reason}", file=sys.stderr)
    sys.exit(code)


def run() -> None:
    try:
        answer = main()
    except Refused as refused:
        fail(refused, refused.code)
    except (BotoCoreError, ClientError, OSError, ValueError, KeyError) as error:
        fail(f"{type(error).__name__}: {error}")
    if answer is not None:
        print(answer if isinstance(answer, str) else json.dumps(answer))


if __name__ == "__main__":
    run()
