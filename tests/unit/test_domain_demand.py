"""What runners cover: as many jobs as can be, of those the oldest; against a matching of single jobs and runners."""

from collections import Counter
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.labels import Labels
from coordinator.domain.planning.demand import cover
from coordinator.domain.planning.waiting import JobClass, Place
from tests.samples.domain import NOW, REPOSITORY, calm

some_labels = st.frozensets(st.sampled_from("abcd"), max_size=3)
Queues = dict[JobClass, list[Place]]


def queues(*jobs: tuple[Labels, int]) -> Queues:
    """Jobs of labels and priority, the oldest first."""
    found: Queues = {}
    for age, (names, priority) in enumerate(jobs):
        place = (NOW + timedelta(seconds=age), f"job-{age:02}")
        found.setdefault(JobClass(REPOSITORY, names, priority), []).append(place)
    return found


waiting = st.lists(st.tuples(some_labels, st.integers(0, 1)), max_size=9).map(lambda jobs: queues(*jobs))
runners = st.dictionaries(some_labels, st.integers(0, 3), max_size=4)


def matched(jobs: list[Labels], machines: list[Labels]) -> bool:
    """Whether there is a machine for each of the jobs (augmenting paths, one by one)."""
    of: dict[int, int] = {}

    def find(job: int, tried: set[int]) -> bool:
        for number, machine in enumerate(machines):
            if number in tried or not jobs[job] <= machine:
                continue
            tried.add(number)
            if number not in of or find(of[number], tried):
                of[number] = job
                return True
        return False

    return all(find(job, set()) for job in range(len(jobs)))


def oldest_that_can_be(seen: Queues, machines: list[Labels]) -> list[Place]:
    """Each job in its turn, if it can be beside those before it: by the exchange of matchings that is the most, too."""
    chosen: list[tuple[Place, Labels]] = []
    for place, names in sorted((place, one.labels) for one, queue in seen.items() for place in queue):
        if matched([*(labels for _, labels in chosen), names], machines):
            chosen.append((place, names))
    return [place for place, _ in chosen]


@calm
@given(waiting, runners)
def test_as_many_jobs_as_can_be_are_covered_the_oldest_first(seen: Queues, serving: dict[Labels, int]) -> None:
    covered = cover(seen, serving)
    machines = list(Counter(serving).elements())
    places = sorted(place for one, count in covered.items() for place in seen[one][:count])
    assert places == oldest_that_can_be(seen, machines)
    assert sum(covered.used.values()) == len(places)


@calm
@given(waiting, runners)
def test_the_runners_that_are_said_to_be_needed_do_it_alone(seen: Queues, serving: dict[Labels, int]) -> None:
    covered = cover(seen, serving)
    jobs = [one.labels for one, count in covered.items() for _ in range(count)]
    assert matched(jobs, list(Counter(covered.used).elements()))
    assert all(0 <= covered.used[kind] <= serving[kind] for kind in serving)


@calm
@given(waiting, runners, st.randoms(use_true_random=False))
def test_it_is_the_same_in_whatever_order_the_classes_and_runners_are_told(
    seen: Queues, serving: dict[Labels, int], chance: object
) -> None:
    classes, kinds = list(seen.items()), list(serving.items())
    chance.shuffle(classes)  # type: ignore[attr-defined]
    chance.shuffle(kinds)  # type: ignore[attr-defined]
    first, other = cover(seen, serving), cover(dict(classes), dict(kinds))
    assert (dict(first), first.used) == (dict(other), other.used)


def test_a_job_that_has_a_choice_leaves_the_runner_to_one_that_has_none() -> None:
    seen = queues((frozenset("a"), 0), (frozenset("ab"), 0))
    covered = cover(seen, {frozenset("ab"): 1, frozenset("ac"): 1})
    assert list(covered.values()) == [1, 1]


def test_special_runners_are_needed_before_those_that_could_serve_more() -> None:
    covered = cover(queues((frozenset("a"), 0)), {frozenset("abc"): 1, frozenset("a"): 1})
    assert covered.used == {frozenset("a"): 1, frozenset("abc"): 0}


def test_runners_move_from_many_jobs_to_others_where_that_serves_more() -> None:
    seen = queues(*[(frozenset("a"), 0)] * 40, *[(frozenset("ab"), 0)] * 40)
    covered = cover(seen, {frozenset("ab"): 30, frozenset("ac"): 30})
    assert {"".join(sorted(one.labels)): count for one, count in covered.items()} == {"a": 40, "ab": 20}
