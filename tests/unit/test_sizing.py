"""Sizing, compared with a model of the Kubernetes scheduler that shares no code with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.clouds.allocatable import Allocatable, Machine, reserved_cpu
from components.clouds.aws.allocatable import eks_allocatable
from components.clouds.base import PodSize
from components.clouds.google.allocatable import gke_allocatable, gke_reserved_memory
from components.clouds.sizing import Candidate, SizingError, WorkerPool, size_pool, size_shared

FOUR = Machine("e2-standard-4", 4, 16384)


def placed(allocatable: Allocatable, nodes: int, daemons: list[PodSize], workers: int, worker: PodSize) -> int:
    """The number of workers that a scheduler places: first fit, node by node, pod by pod, daemonsets first."""
    free = []
    for _ in range(nodes):
        cpu, memory, pods = allocatable.cpu_millicores, allocatable.memory_mib, allocatable.pods
        for daemon in daemons:
            cpu, memory, pods = cpu - daemon.cpu_millicores, memory - daemon.memory_mib, pods - 1
        free.append([cpu, memory, pods])
    count = 0
    for _ in range(workers):
        for node in free:
            if node[0] >= worker.cpu_millicores and node[1] >= worker.memory_mib and node[2] >= 1:
                node[0] -= worker.cpu_millicores
                node[1] -= worker.memory_mib
                node[2] -= 1
                count += 1
                break
    return count


machines = st.builds(
    Machine,
    name=st.just("type"),
    vcpus=st.sampled_from([1, 2, 4, 8, 16, 48, 96, 224]),
    memory_mib=st.integers(1024, 1024 * 1024),
    pods=st.sampled_from([8, 17, 29, 58, 110, 234]),
)
daemon_sets = st.lists(st.builds(PodSize, st.integers(1, 200), st.integers(1, 300)), max_size=5)


@given(
    machines,
    st.sampled_from([gke_allocatable, eks_allocatable]),
    daemon_sets,
    st.integers(1, 300),
    st.integers(0, 100),
    st.none() | st.floats(0.01, 64),
    st.none() | st.floats(0.0625, 256),
)
def test_every_worker_is_placed_and_no_node_is_spare(
    machine: Machine,
    allocatable_of: Callable[[Machine], Allocatable],
    daemons: list[PodSize],
    workers: int,
    more: int,
    cpu: float | None,
    memory: float | None,
) -> None:
    allocatable = allocatable_of(machine)
    try:
        pool = size_pool(
            workers=workers,
            max_workers=workers + more,
            candidate=Candidate(machine, allocatable),
            daemons=daemons,
            worker_cpu=cpu,
            worker_memory_gib=memory,
        )
    except SizingError:
        minimum = PodSize(round(cpu * 1000) if cpu else 1, round(memory * 1024) if memory else 64)
        assert placed(allocatable, 1, daemons, 1, minimum) == 0, "a worker that fits was refused"
        return
    assert placed(allocatable, pool.nodes, daemons, workers, pool.worker) == workers
    assert placed(allocatable, pool.max_nodes, daemons, workers + more, pool.worker) == workers + more
    if cpu is not None:
        assert placed(allocatable, pool.nodes - 1, daemons, workers, pool.worker) < workers
        assert placed(allocatable, pool.max_nodes - 1, daemons, workers + more, pool.worker) < workers + more
    assert pool.nodes * machine.vcpus >= workers or cpu is not None, "more than one worker a vCPU by default"
    assert pool.wasted_cpu_millicores >= 0
    assert pool.wasted_memory_mib >= 0


@given(st.sampled_from([1, 2, 4, 8, 16, 64]), st.integers(1, 60))
def test_by_default_one_worker_a_vcpu_fits(vcpus: int, nodes: int) -> None:
    machine = Machine("type", vcpus, vcpus * 4096)
    pool = pool_of(machine, workers=vcpus * nodes, daemons=[PodSize(400, 500)])
    assert pool.nodes == nodes
    assert pool.workers_per_node == vcpus


def pool_of(machine: Machine, workers: int, daemons: list[PodSize], *, worker_cpu: float | None = None) -> WorkerPool:
    return size_pool(
        workers=workers,
        max_workers=workers,
        candidate=Candidate(machine, gke_allocatable(machine)),
        daemons=daemons,
        worker_cpu=worker_cpu,
    )


def test_worker_requests_exactly_what_the_settings_say() -> None:
    big = Candidate(Machine("big", 16, 131072), gke_allocatable(Machine("big", 16, 131072)))
    pool = size_pool(workers=1, max_workers=1, candidate=big, worker_cpu=2, worker_memory_gib=3)
    assert pool.worker == PodSize(2000, 3072)


@given(st.integers(1, 200), st.integers(1, 200))
def test_worker_size_does_not_depend_on_the_number_of_workers(few: int, many: int) -> None:
    assert pool_of(FOUR, few, []).worker == pool_of(FOUR, many, []).worker


def test_the_articles_machine_holds_its_one_worker() -> None:
    pool = pool_of(Machine("n1-standard-1", 1, 3840), 4, [PodSize(400, 400)])
    assert (pool.nodes, pool.workers_per_node) == (4, 1)
    assert pool.worker.cpu_millicores == 1000 - 60 - 400


@pytest.mark.parametrize(("vcpus", "millicores"), [(1, 60), (2, 70), (4, 80), (8, 90), (16, 110), (96, 310)])
def test_reserved_cpu_is_as_published(vcpus: int, millicores: int) -> None:
    assert reserved_cpu(vcpus) == millicores


@pytest.mark.parametrize(
    ("gib", "reserved_gib"),
    [(1, 0.25), (4, 1.0), (8, 1.8), (16, 2.6), (32, 3.56), (64, 5.48), (128, 9.32), (256, 11.88)],
)
def test_reserved_memory_is_as_published(gib: int, reserved_gib: float) -> None:
    assert gke_reserved_memory(gib * 1024) == pytest.approx(reserved_gib * 1024, abs=2)


def test_reserved_memory_of_a_tiny_machine_is_as_published() -> None:
    assert gke_reserved_memory(614) == 255
    assert gke_reserved_memory(1023) == 255
    assert gke_reserved_memory(1024) > 255


def test_shared_cores_lose_more_than_a_core() -> None:
    assert gke_allocatable(Machine("e2-medium", 2, 4096, shared_core=True)).cpu_millicores == 940


@pytest.mark.parametrize(
    ("machine", "millicores", "kib"),
    [
        # The example of https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes.
        (FOUR, 3920, 13498416),
        # https://github.com/DataDog/helm-charts/issues/409
        (Machine("e2-medium", 2, 4096, shared_core=True), 940, 2885836),
    ],
)
def test_gke_allocatable_is_at_most_what_real_nodes_report(machine: Machine, millicores: int, kib: int) -> None:
    promised = gke_allocatable(machine)
    assert promised.cpu_millicores == millicores
    assert 0.9 * kib / 1024 < promised.memory_mib <= kib / 1024


def test_eks_memory_depends_on_the_number_of_pods() -> None:
    few, many = eks_allocatable(Machine("m", 2, 8192, pods=29)), eks_allocatable(Machine("m", 2, 8192, pods=110))
    assert few.memory_mib - many.memory_mib == 11 * (110 - 29)


@pytest.mark.parametrize(
    ("allocatable_of", "memory_mib"),
    [
        (gke_allocatable, 16384 - 2663 - 100 - 1229),  # 2.6 GiB, the eviction threshold, and 7.5 %
        (eks_allocatable, 16384 - (255 + 11 * 58) - 100 - 1229),
    ],
    ids=["gke", "eks"],
)
def test_allocatable_excludes_reservation_eviction_threshold_and_overhead(
    allocatable_of: Callable[[Machine], Allocatable], memory_mib: int
) -> None:
    assert allocatable_of(Machine("m", 4, 16384, pods=58)) == Allocatable(3920, memory_mib, 58)


def test_node_takes_110_pods_unless_its_machine_type_differs() -> None:
    assert gke_allocatable(FOUR).pods == 110
    assert Allocatable(10**6, 10**6).count(PodSize(1, 1)) == 110


def test_impossible_worker_is_refused_with_larger_machine_types() -> None:
    big, small = Machine("big", 16, 131072), Machine("small", 2, 8192)
    with pytest.raises(SizingError) as caught:
        size_pool(
            workers=2,
            max_workers=2,
            candidate=Candidate(FOUR, gke_allocatable(FOUR)),
            worker_memory_gib=64,
            others=[Candidate(small, gke_allocatable(small)), Candidate(big, gke_allocatable(big))],
        )
    message = str(caught.value)
    assert "64 GiB (workerMemoryGiB)" in message
    assert "allowed: a type on which it fits: big\n" in message
    assert "pulumi config set machineType big" in message


def test_impossible_worker_is_refused_with_the_figures_of_its_node() -> None:
    with pytest.raises(SizingError) as caught:
        pool_of(FOUR, 1, [PodSize(100, 512)], worker_cpu=4)
    assert str(caught.value) == (
        "a worker of 4 cores (workerCpu) does not fit on a node of type e2-standard-4: of its 4 vCPUs and 16 GiB, "
        "pods can request 3.82 cores and 11.60 GiB\n"
        "    allowed: a smaller worker, or a larger machineType\n"
        "    fix:     lower workerCpu or workerMemoryGiB"
    )


def test_impossible_worker_is_refused_with_five_types_by_size() -> None:
    machines = [Machine(f"m{vcpus}", vcpus, vcpus * 4096) for vcpus in (64, 8, 16, 128, 32, 96)]
    with pytest.raises(SizingError, match="fits: m8, m16, m32, m64, m96\n"):
        size_pool(
            workers=1,
            max_workers=1,
            candidate=Candidate(FOUR, gke_allocatable(FOUR)),
            worker_cpu=6,
            others=[Candidate(machine, gke_allocatable(machine)) for machine in machines],
        )


def test_waste_is_reported_where_another_size_would_save_it() -> None:
    assert "unused: 1.9 cores" in str(pool_of(FOUR, 1, [], worker_cpu=2))
    assert "unused" not in str(pool_of(FOUR, 4, []))


@pytest.mark.parametrize(
    ("millicores", "mib", "text"),
    [
        (199, 511, "2 x e2-standard-4, 1 worker each"),
        (200, 0, "2 x e2-standard-4, 1 worker each (unused: 0.2 cores and 0.0 GiB)"),
        (0, 512, "2 x e2-standard-4, 1 worker each (unused: 0.0 cores and 0.5 GiB)"),
    ],
)
def test_waste_below_a_tenth_of_a_nodes_core_is_unreported(millicores: int, mib: int, text: str) -> None:
    assert str(WorkerPool(FOUR, PodSize(1000, 1024), 1, 2, 2, millicores, mib)) == text


@given(
    st.integers(1, 250),
    st.integers(500, 64000),
    st.integers(1000, 300000),
    st.none() | st.floats(0.01, 4),
    st.none() | st.floats(0.0625, 8),
)
def test_all_workers_fit_beside_the_scheduler_on_a_shared_node(
    workers: int, cpu: int, memory: int, worker_cpu: float | None, worker_memory: float | None
) -> None:
    scheduler = PodSize(200, 500)
    free = Allocatable(cpu, memory, 250)
    try:
        worker = size_shared(
            max_workers=workers, free=free, scheduler=scheduler, worker_cpu=worker_cpu, worker_memory_gib=worker_memory
        )
    except SizingError:
        return
    assert placed(free, 1, [scheduler], workers, worker) == workers
    assert (worker.memory_limit_mib or 0) >= worker.memory_mib


def test_worker_size_on_a_shared_node_ignores_their_number() -> None:
    free, scheduler = Allocatable(4000, 16000), PodSize(200, 500)
    sizes = {size_shared(max_workers=number, free=free, scheduler=scheduler) for number in (1, 4, 40)}
    assert len(sizes) == 1


def test_worker_on_a_shared_node_requests_what_the_settings_say() -> None:
    free, scheduler = Allocatable(4000, 16000), PodSize(200, 500)
    worker = size_shared(max_workers=4, free=free, scheduler=scheduler, worker_cpu=0.8, worker_memory_gib=2)
    assert worker == PodSize(800, 2048, 2048)


@pytest.mark.parametrize(("memory_mib", "limit_mib"), [(16000, 4000), (3000, 1024)])
def test_worker_on_shared_node_may_use_quarter_of_its_memory(memory_mib: int, limit_mib: int) -> None:
    worker = size_shared(max_workers=1, free=Allocatable(4000, memory_mib), scheduler=PodSize(200, 500))
    assert worker == PodSize(20, 128, limit_mib)


def test_workers_that_just_fit_on_a_shared_node_are_accepted() -> None:
    free = Allocatable(1000, 8192)
    size_shared(max_workers=4, free=free, scheduler=PodSize(200, 500), worker_cpu=0.2)
    with pytest.raises(SizingError, match=r"room for 4 .0.80 cores and 7.5 GiB are free.*\n.*maxWorkers 4") as caught:
        size_shared(max_workers=5, free=free, scheduler=PodSize(200, 500), worker_cpu=0.2)
    assert "too small for 5 workers of 0.2 cores and 0.12 GiB each" in str(caught.value)


def test_shared_node_without_room_for_one_worker_says_so() -> None:
    with pytest.raises(SizingError, match=r"no room for one .0.00 cores and 0.0 GiB are free.*\n.*workerMemoryGiB 0.1"):
        size_shared(max_workers=1, free=Allocatable(100, 100), scheduler=PodSize(200, 500))


def test_too_small_machine_is_refused_with_the_workers_that_fit() -> None:
    with pytest.raises(SizingError, match=r"room for 8 .*\n.*maxWorkers 8"):
        size_shared(max_workers=40, free=Allocatable(4000, 2048), scheduler=PodSize(100, 1024))
