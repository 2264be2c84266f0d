"""A farm whose hosts come in by invitation, and what attackers need: certificates of any make."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent import enrol, identity
from agent.config import HostSection
from agent.identity import Identity
from agent.with_simulated import SimulatedConfig
from coordinator.config import Grpc
from coordinator.pki.authority import Authority
from hostler import __version__
from protos.hostler.v1 import access_pb2, fleet_pb2
from protos.hostler.v1.access_pb2_grpc import EnrolmentStub
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from tests.simulation.farm import QUICK, Farm, free_port

PATIENCE_SECONDS = 10.0


class EnrolledFarm(Farm):
    """Agents know no address but what their enrolment told them."""

    def __init__(self, directory: Path, *, certificate_hours: float = 168.0) -> None:
        super().__init__(directory)
        self.agents_port, self.clients_port = free_port(), free_port()
        secured = Grpc(
            bind=f"127.0.0.1:{self.grpc_port}",
            agents_bind=f"127.0.0.1:{self.agents_port}",
            clients_bind=f"127.0.0.1:{self.clients_port}",
            public_names=("127.0.0.1", "localhost"),
            certificate_hours=certificate_hours,
        )
        self.config = msgspec.structs.replace(self.config, grpc=secured)

    @property
    def clients(self) -> str:
        return f"127.0.0.1:{self.clients_port}"

    def agent_config(self, host: str, data: str = "") -> SimulatedConfig:
        return SimulatedConfig(
            data_dir=str(self.directory / (data or host)), host=HostSection(name=host), simulated=QUICK
        )

    async def invite(self, host: str = "host-1", seconds: int = 0) -> access_pb2.Invitation:
        async with self.access() as access:
            request = access_pb2.InviteHostRequest(host=host, valid_seconds=seconds)
            answer: access_pb2.Invitation = await access.InviteHost(request)
            return answer

    async def revoke(self, host: str = "host-1") -> None:
        async with self.access() as access:
            await access.RevokeHost(access_pb2.RevokeHostRequest(host=host))

    async def enrol(self, host: str = "host-1", data: str = "") -> Identity:
        """As the printed line does it."""
        invited = await self.invite(host)
        return await enrol.enrol(self.agent_config(host, data), invited.clients_address, invited.token, invited.ca_pin)

    def identity(self, host: str = "host-1") -> Identity:
        kept = identity.load(self.directory / host)
        assert kept is not None
        return kept


@asynccontextmanager
async def enrolled_farm(directory: Path, *, certificate_hours: float = 168.0) -> AsyncIterator[EnrolledFarm]:
    one = EnrolledFarm(directory, certificate_hours=certificate_hours)
    try:
        await one.start()
        await one.start_coordinator()
        yield one
    finally:
        await one.close()


class Forged(msgspec.Struct, frozen=True):
    key: bytes  # PEM
    certificate: bytes  # PEM


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def csr(key: ec.EllipticCurvePrivateKey, common_name: str = "", names: tuple[x509.GeneralName, ...] = ()) -> bytes:
    subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def self_signed(uri: str) -> Forged:
    """What anybody can make for himself, with any name in it."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host-1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Forged(pem(key), made.public_bytes(Encoding.PEM))


def issued_by(ca: Authority, subject: Any, life: timedelta, at: datetime) -> Forged:
    """What the coordinator itself would have made at another time."""
    key = new_key()
    return Forged(pem(key), ca.for_host(subject, key.public_key(), at, life))


def held(mine: Identity) -> Forged:
    return Forged(mine.key.encode(), mine.certificate.encode())


def agents_channel(one: EnrolledFarm, ca: str, shown: Forged | None) -> grpc.aio.Channel:
    proof = grpc.ssl_channel_credentials(
        ca.encode(), shown.key if shown else None, shown.certificate if shown else None
    )
    options = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.aio.secure_channel(f"127.0.0.1:{one.agents_port}", proof, options=options)


async def say_hello(one: EnrolledFarm, ca: str, shown: Forged | None, host: str = "host-1") -> str:
    """Open a stream as `host`; "welcome", or why not."""
    hello = fleet_pb2.Hello(
        host=host,
        agent_version=__version__,
        arch="amd64",
        capacity=fleet_pb2.Resources(vcpus=1, memory_mib=1, disk_gib=1),
    )
    async with agents_channel(one, ca, shown) as channel, asyncio.timeout(PATIENCE_SECONDS):
        call: Any = FleetStub(channel).Session()
        try:
            await call.write(fleet_pb2.AgentMessage(hello=hello))
            answer = await call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return await _why(call)
        return "welcome" if answer is not grpc.aio.EOF else await _why(call)


async def _why(call: Any) -> str:
    return f"{(await call.code()).name}: {await call.details()}"


async def ask_to_enrol(one: EnrolledFarm, ca: bytes, token: str, host: str, request: bytes) -> access_pb2.Certificate:
    proof = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(one.clients, proof) as channel:
        answer: access_pb2.Certificate = await EnrolmentStub(channel).Enrol(
            access_pb2.EnrolRequest(token=token, host=host, csr=request), timeout=PATIENCE_SECONDS
        )
        return answer
