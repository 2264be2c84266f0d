"""The command `hostler-agent enrol`: this host gets its first certificate for the token of an invitation."""

import os
from typing import Final

import grpc.aio

from agent import identity, newkey
from agent.config import AgentConfig
from agent.identity import Identity
from hostler import __version__, pins, tickets
from hostler.config import check_key, host_and_port
from hostler.errors import ConfigError, HostlerError
from hostler.tickets import Kind
from protos.hostler.v1 import access_pb2 as pb
from protos.hostler.v1.access_pb2_grpc import EnrolmentStub

_SECONDS: Final = 30.0
_OPTIONS: Final = (("grpc.enable_retries", 0),)


class EnrolmentRefused(HostlerError):
    """The coordinator gave no certificate; the reason is its own."""

    code = "enrolment_refused"


async def enrol(config: AgentConfig, coordinator: str, token: str, ca_pin: str) -> Identity:
    """Make a key here, get it certified, and keep both in the data directory.

    Args:
        coordinator: HOST:PORT of its listener for clients.

    Raises:
        ConfigError: an argument is not what it must be.
        TicketMistyped: the token is no token.
        PinWrong, CoordinatorSilent: whoever answers is not that coordinator, or nobody does.
        EnrolmentRefused: see there.
    """
    for name, check in (
        ("--coordinator", lambda: host_and_port(coordinator)),
        ("--ca-pin", lambda: pins.check_pin(ca_pin)),
    ):
        try:
            check_key(name, check)
        except ValueError as error:
            raise ConfigError(str(error), hint="copy the whole line that was printed") from None
    token = tickets.check(Kind.INVITATION, token)
    _check_writable(config)
    ca = pins.fetch_ca(coordinator, ca_pin)
    new = await newkey.make()
    request = pb.EnrolRequest(token=token, host=config.host.name, csr=new.csr, agent_version=__version__)
    async with grpc.aio.secure_channel(coordinator, grpc.ssl_channel_credentials(ca), options=_OPTIONS) as channel:
        try:
            answer = await EnrolmentStub(channel).Enrol(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _explained(error, coordinator) from error
    given = identity.made(
        host=answer.host,
        address=answer.agents_address,
        ca=answer.ca,
        certificate=answer.certificate,
        key=new.key,
        life_seconds=answer.life_seconds,
    )
    identity.save(config.data_path, given)
    return given


def _check_writable(config: AgentConfig) -> None:
    """Before the token is used up."""
    try:
        config.data_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"key 'data_dir': {config.data_path} cannot be made: {error.strerror}") from error
    if not os.access(config.data_path, os.W_OK | os.X_OK):
        raise ConfigError(
            f"key 'data_dir': this user may not write to {config.data_path}",
            hint="enrol as the user that the agent runs as",
        )


def _explained(error: grpc.aio.AioRpcError, coordinator: str) -> HostlerError:
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return EnrolmentRefused(
            f"{coordinator}: {details}",
            hint="if its certificate does not have this name, add the name to [grpc] public_names of the coordinator",
        )
    return EnrolmentRefused(details)
