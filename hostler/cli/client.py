"""The connection to the coordinator, and its gRPC errors turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hostler.config import host_and_port, is_loopback
from hostler.errors import HostlerError
from protos.hostler.v1.admin_pb2_grpc import AdminStub

DEFAULT = "127.0.0.1:9998"
TIMEOUT_SECONDS = 30

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment must not be asked for this machine's own port
    ("grpc.max_receive_message_length", -1),  # consoles and listings outgrow the default of 4 MiB
)


class Unreachable(HostlerError):
    """No coordinator answers."""

    code = "coordinator_unreachable"


class Refused(HostlerError):
    """The coordinator answered that it will not or cannot."""

    code = "coordinator_refused"


def check_address(address: str) -> None:
    """Refuse what the client must not or cannot connect to.

    Raises:
        ValueError: not HOST:PORT, or an address to which secrets would travel unencrypted.
    """
    host, _ = host_and_port(address)
    if not is_loopback(host):
        raise ValueError(
            f"'{address}' is not on this machine, and connections are not encrypted yet; "
            f"forward the port instead: ssh -L 9998:127.0.0.1:9998 {host}, then use {DEFAULT}"
        )


@contextmanager
def connected(address: str) -> Iterator[AdminStub]:
    """The coordinator's admin service.

    Raises:
        Unreachable: nobody answers there, or not in time.
        Refused: the coordinator answered with an error.
    """
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            yield AdminStub(channel)
        except grpc.RpcError as error:
            raise _explained(error, address) from error


def _explained(error: object, address: str) -> HostlerError:
    if not isinstance(error, grpc.Call):
        return Unreachable(f"the connection to {address} failed: {error}")
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return Unreachable(
                f"no coordinator answers at {address}",
                hint="is hostler-coordinator running? set --coordinator or HOSTLER_COORDINATOR to its [grpc] bind",
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(
                f"the coordinator at {address} gave no answer within {TIMEOUT_SECONDS} s",
                hint="look at its log; it may be overloaded or its database may hang",
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return Refused(
                f"the coordinator at {address} does not know this request",
                hint="is it the coordinator's [grpc] address, and as new as this client?",
            )
        case code:
            return Refused(details or f"the coordinator answered {code.name} without a reason")
