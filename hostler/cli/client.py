"""The connection to the coordinator, and its gRPC errors turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
from cyclopts import Parameter

from hostler import pins, tickets
from hostler.config import host_and_port, is_loopback
from hostler.errors import ConfigError, HostlerError
from hostler.tickets import Kind, TicketMistyped
from protos.hostler.v1.admin_pb2_grpc import AdminStub

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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Connection:
    """How the coordinator is reached: plain on its own machine, from elsewhere by TLS and with a token.

    A dataclass, since that is what cyclopts makes of several options.
    """

    address: Annotated[
        str,
        Parameter(
            name="--coordinator", env_var="HOSTLER_COORDINATOR", help="The coordinator's gRPC address, HOST:PORT."
        ),
    ] = "127.0.0.1:9998"
    token_file: Annotated[
        Path | None,
        Parameter(name="--token-file", env_var="HOSTLER_TOKEN_FILE", help="With a token, for TLS. See token make."),
    ] = None
    ca_pin: Annotated[
        str, Parameter(name="--ca-pin", env_var="HOSTLER_CA_PIN", help="By which the coordinator is known, for TLS.")
    ] = ""
    ca_file: Annotated[
        Path | None,
        Parameter(name="--ca-file", env_var="HOSTLER_CA_FILE", help="Its CA's certificate, instead of the pin."),
    ] = None


DEFAULT = Connection()


@contextmanager
def connected(to: Connection) -> Iterator[AdminStub]:
    """The coordinator's admin service.

    Raises:
        ConfigError: it must not or cannot be reached like this.
        Unreachable: nobody answers there, or not in time.
        Refused: the coordinator answered with an error.
    """
    with channel(to) as open_channel:
        yield AdminStub(open_channel)


@contextmanager
def channel(to: Connection) -> Iterator[grpc.Channel]:
    """As `connected`, for any service."""
    try:
        host, _ = host_and_port(to.address)
    except ValueError as error:
        raise ConfigError(f"--coordinator: {error}") from None
    secured = to.token_file is not None or bool(to.ca_pin) or to.ca_file is not None
    if not secured and not is_loopback(host):
        raise ConfigError(
            f"'{to.address}' is not on this machine, and so needs TLS and a token",
            hint="give --token-file and --ca-pin, which hostler token make tells on the coordinator's machine",
        )
    with _secured(to) if secured else grpc.insecure_channel(to.address, options=_OPTIONS) as made:
        try:
            yield made
        except grpc.RpcError as error:
            raise _explained(error, to.address, secured=secured) from error


def _secured(to: Connection) -> grpc.Channel:
    if to.token_file is None:
        raise ConfigError(
            "--token-file is missing", hint="make a token on the coordinator's machine: hostler token make"
        )
    try:
        token = tickets.check(Kind.ADMIN, _read(to.token_file, "--token-file"))
    except TicketMistyped as error:
        raise ConfigError(f"--token-file {to.token_file}: {error}") from None
    proof = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(_ca(to)), grpc.access_token_call_credentials(token)
    )
    return grpc.secure_channel(to.address, proof, options=_OPTIONS)


def _ca(to: Connection) -> bytes:
    if to.ca_file is not None:
        return _read(to.ca_file, "--ca-file").encode()
    try:
        pins.check_pin(to.ca_pin)
    except ValueError as error:
        raise ConfigError(
            f"--ca-pin: {error}", hint="hostler token make tells it; --ca-file names a file instead"
        ) from None
    try:
        return pins.fetch_ca(to.address, to.ca_pin)
    except pins.CoordinatorSilent as error:
        raise Unreachable(str(error)) from error


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error}") from None


def _explained(error: object, address: str, *, secured: bool) -> HostlerError:
    if not isinstance(error, grpc.Call):
        return Unreachable(f"the connection to {address} failed: {error}")
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if secured:
            return Unreachable(
                f"no coordinator with that CA answers at {address}: {details}",
                hint="the address is that of [grpc] clients_bind, by one of its public_names",
            )
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
