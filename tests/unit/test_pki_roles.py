"""Which role each call of the admin client needs."""

from coordinator.accounts.roles import Role
from coordinator.pki.guard import needed_role
from protos.hostler.v1 import access_pb2, admin_pb2

NEEDED = {
    Role.VIEWER: {
        "FleetStatus", "ListJobs", "GetJob", "ExplainJob", "Watch", "ListImages", "GetImage", "ListHosts", "GetHost",
        "ListProviders",
    },
    Role.OPERATOR: {"GetConsole", "CheckProvider", "PrefetchImages", "CordonHost", "DrainHost", "UncordonHost"},
    Role.ADMIN: {
        "Apply", "RemoveImage", "RemoveHost", "InviteHost", "RevokeHost", "MakeToken", "ListTokens", "RevokeToken",
        "ListAudit", "VerifyAudit", "Export", "Backup",
    },
}  # fmt: skip


def test_every_call_needs_the_role_that_it_is_said_to_need() -> None:
    services = (admin_pb2.DESCRIPTOR.services_by_name["Admin"], access_pb2.DESCRIPTOR.services_by_name["Access"])
    methods = {method.name for service in services for method in service.methods}
    assert {role: {name for name in methods if needed_role(name) is role} for role in Role} == NEEDED


def test_a_role_includes_the_lesser_ones() -> None:
    ranks = [Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    for rank, role in enumerate(ranks):
        assert [role.includes(other) for other in ranks] == [other_rank <= rank for other_rank in range(3)]
