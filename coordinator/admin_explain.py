"""The planner's explanation on the wire."""

from coordinator.domain.planning.explain import Explanation, InLine, PoolVerdict
from protos.hostler.v1 import admin_pb2 as pb


def explained(found: Explanation | None, job: pb.Job) -> pb.Explanation:
    if found is None:
        return pb.Explanation(job=job, summary="this coordinator has not planned yet: ask again in a moment")
    line = found.in_line
    return pb.Explanation(
        job=job,
        summary=found.summary,
        in_line=_in_line(line) if line is not None else None,
        pools=map(_pool, found.pools),
        kept=found.kept,
        remedies=found.remedies,
    )


def _in_line(line: InLine) -> pb.InLine:
    return pb.InLine(
        before_alike=line.before_alike,
        before_of_entity=line.before_of_entity,
        waiting=line.waiting,
        starves=line.starves,
    )


def _pool(one: PoolVerdict) -> pb.PoolVerdict:
    return pb.PoolVerdict(
        id=one.pool_id,
        name=one.pool,
        missing_labels=one.missing,
        code=one.code,
        reason=one.reason,
        hosts=[pb.HostVerdict(host=host.host, reason=host.reason) for host in one.hosts],
        hosts_left_out=one.hosts_left_out,
    )
