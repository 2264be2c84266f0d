"""Hosts come in by invitation, work and renew over mutual TLS, and can be shut out; attackers get nowhere."""

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent import enrol, identity
from agent.enrol import EnrolmentRefused
from coordinator.pki.authority import Authority
from coordinator.pki.issuer import open_authority
from coordinator.pki.names import HostIdentity, read
from coordinator.store.store import open_store
from hostler import pins
from hostler.errors import ConfigError
from hostler.pins import PinWrong
from hostler.tickets import TicketMistyped
from protos.hostler.v1 import access_pb2, admin_pb2, fleet_pb2
from protos.hostler.v1.access_pb2_grpc import AccessStub, RenewalStub
from protos.hostler.v1.admin_pb2_grpc import AdminStub
from protos.hostler.v1.fleet_pb2_grpc import FleetStub
from tests.simulation.enrolled import (
    EnrolledFarm,
    Forged,
    agents_channel,
    ask_to_enrol,
    csr,
    enrolled_farm,
    held,
    issued_by,
    new_key,
    pem,
    say_hello,
    self_signed,
)


async def refusal(one: EnrolledFarm, invited: access_pb2.Invitation, host: str = "host-1", token: str = "") -> str:
    with pytest.raises((EnrolmentRefused, TicketMistyped)) as caught:
        await enrol.enrol(one.agent_config(host, "attacker"), one.clients, token or invited.token, invited.ca_pin)
    return str(caught.value)


async def start_agent(one: EnrolledFarm, host: str = "host-1") -> None:
    """An agent that knows what its enrolment told it."""
    await one.start_agent(host, address="")


async def authority(one: EnrolledFarm) -> Authority:
    """The coordinator's CA itself, key and all: for what only a thief of it, or time, could make."""
    await one.stop("coordinator")
    store = await open_store(
        one.config.database_url,
        Path(one.config.data_dir),
        clock=one.now,
        new_id=lambda: "x",
        chance=lambda: 0.5,
    )
    ca = await open_authority(store)
    await store.close()
    await one.start_coordinator()
    return ca


async def test_a_host_is_invited_enrols_and_runs_a_job(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        await one.declare()
        mine = await one.enrol()
        file = tmp_path / "host-1" / identity.FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert mine.agents_address == f"127.0.0.1:{one.agents_port}"
        await start_agent(one)
        await one.completed(one.queue())
        await one.assert_nothing_left()


async def test_each_bad_token_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        assert "is for the host 'host-1', and this one is called 'host-2'" in await refusal(one, invited, "host-2")
        await enrol.enrol(one.agent_config("host-1"), one.clients, invited.token, invited.ca_pin)
        assert "this token was used at" in await refusal(one, invited)
        short = await one.invite(seconds=60)
        one.ahead += timedelta(seconds=61)
        assert "this token expired at" in await refusal(one, short)
        withdrawn = await one.invite()
        await one.revoke()
        assert "this token was withdrawn at" in await refusal(one, withdrawn)
        last = invited.token[-1]
        typo = invited.token[:-1] + ("a" if last != "a" else "b")
        assert "mistyped: its checksum is wrong" in await refusal(one, invited, token=typo)
        assert not (tmp_path / "attacker" / identity.FILE).exists()


async def test_the_coordinator_itself_tells_a_mistyped_token_from_an_unknown_one(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    async with enrolled_farm(tmp_path) as one, enrolled_farm(beside) as other:
        invited, foreign = await one.invite(), await other.invite()
        ca = await asyncio.to_thread(pins.fetch_ca, one.clients, invited.ca_pin)
        request = csr(new_key())
        for token, said in (
            (invited.token[:-1], "mistyped: 31 characters"),
            (invited.token[len("hostler-invite_") :], "must begin with 'hostler-invite_'"),
            (foreign.token, "not known here: it is of another installation"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=said) as caught:
                await ask_to_enrol(one, ca, token, "host-1", request)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_is_good_for_one_of_two_that_use_it_at_once(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        ca = await asyncio.to_thread(pins.fetch_ca, one.clients, invited.ca_pin)
        tries = [ask_to_enrol(one, ca, invited.token, "host-1", csr(new_key())) for _ in range(5)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(answer, access_pb2.Certificate) for answer in answers) == 1


async def test_names_are_the_coordinators_choice_whatever_a_request_asks_for(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        ca = await asyncio.to_thread(pins.fetch_ca, one.clients, invited.ca_pin)
        asked = (
            x509.DNSName("localhost"),
            x509.UniformResourceIdentifier(f"spiffe://{(await one.status()).controller_id}/host/host-2/{'0' * 36}"),
        )
        answer = await ask_to_enrol(one, ca, invited.token, "host-1", csr(new_key(), "coordinator", asked))
        made = x509.load_pem_x509_certificate(answer.certificate)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert read([str(name.value) for name in names], (await one.status()).controller_id).host == "host-1"
        assert [name.value for name in made.subject] == ["host-1"]
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


async def test_a_wrong_pin_is_found_out_before_the_token_is_sent(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        with pytest.raises(PinWrong, match="is not the coordinator with the CA"):
            await enrol.enrol(one.agent_config("host-1"), one.clients, invited.token, f"sha256:{'0' * 64}")
        with pytest.raises(ConfigError, match="is not a pin"):
            await enrol.enrol(one.agent_config("host-1"), one.clients, invited.token, "sha256:0")
        await enrol.enrol(one.agent_config("host-1"), one.clients, invited.token, invited.ca_pin)


async def test_whoever_guesses_is_stopped(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        ca = await asyncio.to_thread(pins.fetch_ca, one.clients, invited.ca_pin)
        request = csr(new_key())
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError, match="mistyped"):
                await ask_to_enrol(one, ca, "hostler-invite_guess", "host-1", request)
        with pytest.raises(grpc.aio.AioRpcError, match="came from this address within a minute"):
            await ask_to_enrol(one, ca, invited.token, "host-1", request)


async def test_a_certificate_opens_its_own_hosts_stream_and_no_others(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol("host-1")
        await one.enrol("host-2")
        assert await say_hello(one, mine.ca, held(mine)) == "welcome"
        answer = await say_hello(one, mine.ca, held(mine), host="host-2")
        assert answer.startswith("PERMISSION_DENIED: this certificate is for the host 'host-1', not for 'host-2'")


async def test_an_agents_certificate_finds_no_admin_and_no_enrolment(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        async with agents_channel(one, mine.ca, held(mine)) as channel:
            for call in (
                AdminStub(channel).FleetStatus(admin_pb2.FleetStatusRequest()),
                AccessStub(channel).MakeToken(access_pb2.MakeTokenRequest(name="mine")),
                AccessStub(channel).InviteHost(access_pb2.InviteHostRequest(host="host-2")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        proof = grpc.ssl_channel_credentials(mine.ca.encode(), mine.key.encode(), mine.certificate.encode())
        async with grpc.aio.secure_channel(one.clients, proof) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="needs a token") as caught:
                await AdminStub(channel).FleetStatus(admin_pb2.FleetStatusRequest())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_admins_token_opens_nothing_where_agents_come_in(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        async with one.access() as access:
            made = await access.MakeToken(access_pb2.MakeTokenRequest(name="laptop"))
        shown = (("authorization", f"Bearer {made.token}"),)
        asked = admin_pb2.FleetStatusRequest()
        ca = grpc.ssl_channel_credentials(mine.ca.encode())
        for port, refused in ((one.clients_port, None), (one.agents_port, grpc.StatusCode.UNAVAILABLE)):
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", ca) as channel:
                if refused is None:
                    assert (await AdminStub(channel).FleetStatus(asked, metadata=shown)).controller_id
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await AdminStub(channel).FleetStatus(asked, metadata=shown)
                assert caught.value.code() is refused
        async with agents_channel(one, mine.ca, held(mine)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AdminStub(channel).FleetStatus(asked, metadata=shown)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_a_certificate_or_with_one_of_another_make_there_is_no_connection(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        controller = (await one.status()).controller_id
        assert (await say_hello(one, mine.ca, None)).startswith("UNAVAILABLE")
        same_name = self_signed(HostIdentity("host-1", "0" * 36).uri(controller))
        assert (await say_hello(one, mine.ca, same_name)).startswith("UNAVAILABLE")


async def test_an_expired_certificate_opens_nothing(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        ca = await authority(one)
        names = x509.load_pem_x509_certificate(mine.certificate.encode()).extensions
        uri = names.get_extension_for_class(x509.SubjectAlternativeName).value[0].value
        me = read([str(uri)], ca.controller_id)
        now = datetime.now(UTC)
        good = issued_by(ca, me, timedelta(hours=1), now)
        expired = issued_by(ca, me, timedelta(hours=1), now - timedelta(hours=2))
        assert await say_hello(one, mine.ca, good) == "welcome"
        assert (await say_hello(one, mine.ca, expired)).startswith("UNAVAILABLE")


async def test_a_certificate_of_an_enrolment_that_never_was_opens_nothing(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        ca = await authority(one)
        stray = issued_by(ca, HostIdentity("host-1", "0" * 36), timedelta(hours=1), datetime.now(UTC))
        assert "the enrolment of the host 'host-1' is not known here" in await say_hello(one, mine.ca, stray)
        server = ca.for_server(["127.0.0.1"], datetime.now(UTC), timedelta(hours=1))
        shown = type(stray)(server.key, server.chain)
        assert (await say_hello(one, mine.ca, shown)).startswith("UNAVAILABLE")  # it is not for clients


async def test_a_revoked_host_is_cut_off_at_once_and_may_be_invited_again(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        await one.declare()
        mine = await one.enrol()
        await start_agent(one)
        await one.revoke()
        await one.until(lambda status: not status.hosts[0].connected)
        assert "PERMISSION_DENIED: the host 'host-1' was revoked at" in await say_hello(one, mine.ca, held(mine))
        async with agents_channel(one, mine.ca, held(mine)) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="was revoked at") as caught:
                await RenewalStub(channel).Renew(access_pb2.RenewRequest(csr=csr(new_key())))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await one.enrol()  # the agent runs, and takes it up by itself
        await one.until_host_connected()
        await one.completed(one.queue())
        assert "was revoked at" in await say_hello(one, mine.ca, held(mine))
        await one.assert_nothing_left()


async def test_a_removed_host_is_cut_off_and_its_certificate_and_invitations_are_void(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        mine = await one.enrol()
        await start_agent(one)
        invited = await one.invite()
        async with one.admin() as admin:
            removed = await admin.RemoveHost(admin_pb2.RemoveHostRequest(name="host-1"))
        assert (removed.connected, removed.enrolled, removed.invitations) == (True, True, 1)
        assert "PERMISSION_DENIED: the host 'host-1' was revoked at" in await say_hello(one, mine.ca, held(mine))
        assert "this token was withdrawn at" in await refusal(one, invited)
        assert not (await one.status()).hosts
        await one.enrol()
        await one.until_host_connected()


async def test_a_host_enrolled_anew_leaves_its_old_certificate_worthless(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        old = await one.enrol()
        assert (await one.invite()).replaces
        new = await one.enrol(data="new-disk")
        assert "was enrolled anew, and this certificate is over" in await say_hello(one, old.ca, held(old))
        assert await say_hello(one, new.ca, held(new)) == "welcome"


async def test_certificates_are_renewed_in_time_while_jobs_run(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path, certificate_hours=20 / 3600) as one:
        await one.declare()
        first = await one.enrol()
        await start_agent(one)
        one.guests.may_end.clear()
        job = one.queue()
        await one.until_instance(lambda instance: instance.runner_status == "active")
        await one.until_true(lambda: one.identity().key != first.key)
        second = one.identity()
        await one.until_true(lambda: one.identity().key != second.key)
        assert len({first.key, second.key, one.identity().key}) == 3
        assert len({first.certificate, second.certificate, one.identity().certificate}) == 3
        await one.until_true(lambda: datetime.now(UTC) > first.expires_at)  # and its stream is over by then
        one.guests.may_end.set()
        await one.completed(job)
        await one.completed(one.queue())
        await one.assert_nothing_left()


async def test_a_stream_does_not_outlast_its_certificate(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path, certificate_hours=10 / 3600) as one:
        mine = await one.enrol()
        async with agents_channel(one, mine.ca, held(mine)) as channel:
            call: Any = FleetStub(channel).Session()
            await call.write(fleet_pb2.AgentMessage(hello=fleet_pb2.Hello(host="host-1", agent_version="0.1.0")))
            assert (await call.read()).HasField("welcome")
            async with asyncio.timeout(30):
                assert "the certificate of the host 'host-1' expired at" in await call.details()


async def test_a_renewal_needs_a_new_key(tmp_path: Path) -> None:
    async with enrolled_farm(tmp_path) as one:
        invited = await one.invite()
        ca = await asyncio.to_thread(pins.fetch_ca, one.clients, invited.ca_pin)
        key = new_key()
        answer = await ask_to_enrol(one, ca, invited.token, "host-1", csr(key))
        mine = Forged(pem(key), answer.certificate)
        async with agents_channel(one, ca.decode(), mine) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="a renewal needs a new key"):
                await RenewalStub(channel).Renew(access_pb2.RenewRequest(csr=csr(key)))
            with pytest.raises(grpc.aio.AioRpcError, match="not a certificate signing request"):
                await RenewalStub(channel).Renew(access_pb2.RenewRequest(csr=b"nonsense"))
            renewed = await RenewalStub(channel).Renew(access_pb2.RenewRequest(csr=csr(new_key(), "host-2")))
            assert renewed.host == "host-1"
