"""The scenarios of the packing benchmark."""

import itertools
from collections.abc import Iterator, Sequence

from bench._packing_clusters import (
    ALL_1G,
    ALL_2G,
    ALL_3G,
    BALANCED,
    CARD,
    CUTS,
    Layout,
    Machine,
    Scenario,
)


def alike(layouts: Sequence[Layout], each: int, cores: int, gpus: int = 8) -> tuple[Machine, ...]:
    """Nodes with one layout on all GPUs, so many of each."""
    return tuple(
        Machine("A100-80GB", (layout,) * gpus, cores) for layout in layouts for _ in range(each)
    )


def u1(cores: int = 256, each: int = 3, gpus: int = 8) -> tuple[Machine, ...]:
    """One layout per node."""
    return alike(CUTS, each, cores, gpus)


def u2(cores: int = 256) -> tuple[Machine, ...]:
    """All GPUs alike."""
    return alike((BALANCED,), 12, cores)


def u3(cores: int = 256) -> tuple[Machine, ...]:
    """Layouts mixed within each node, all nodes alike."""
    mixed = (BALANCED,) * 3 + (ALL_1G,) * 2 + (ALL_3G,) * 2 + (ALL_2G,)
    return (Machine("A100-80GB", mixed, cores),) * 12


def u4(*, whole: bool = False) -> tuple[Machine, ...]:
    """Three models, one layout per node in turn; with whole GPUs, half of those in each node with 8.

    4 nodes with 8 GPUs of 40 GB, 6 with 4 and 4 with 8 of 80 GB.
    """

    def machines(product: str, nodes: int, gpus: int, cores: int) -> Iterator[Machine]:
        for layout in itertools.islice(itertools.cycle(CUTS), nodes):
            cards = gpus // 2 if whole and gpus == 8 else 0
            yield Machine(product, (CARD,) * cards + (layout,) * (gpus - cards), cores)

    return (
        *machines("A100-40GB", 4, 8, 192),
        *machines("A100-80GB", 6, 4, 128),
        *machines("H100-80GB", 4, 8, 384),
    )


def u5(cores: int = 256) -> tuple[Machine, ...]:
    """Whole GPUs: 2 nodes with nothing else, 8 with half of them, 2 balanced nodes without."""
    halves = [
        Machine("A100-80GB", (CARD,) * 4 + (layout,) * 4, cores)
        for layout in CUTS
        for _ in range(2)
    ]
    return (*alike((CARD,), 2, cores), *alike((BALANCED,), 2, cores), *halves)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="U1 .15", machines=u1(), load=0.15),
    Scenario(name="U1 .30", machines=u1(), load=0.30, minimum=True),
    Scenario(name="U1 .50", machines=u1(), load=0.50),
    Scenario(name="U1 .70", machines=u1(), load=0.70),
    Scenario(name="U2 .30", machines=u2(), load=0.30, minimum=True),
    Scenario(name="U2 .50", machines=u2(), load=0.50),
    Scenario(name="U3 .30", machines=u3(), load=0.30, minimum=True),
    Scenario(name="U3 .50", machines=u3(), load=0.50),
    Scenario(name="U1 .30 prop", machines=u1(), load=0.30, cpu="prop"),
    Scenario(name="U1 .30 anti", machines=u1(320), load=0.30, cpu="anti"),
    Scenario(name="U1 .30 resident", machines=u1(384), load=0.30, resident=0.75, minimum=True),
    Scenario(name="U1 .30 churn 5%", machines=u1(), load=0.30, churn=0.05, minimum=True),
    Scenario(name="U1 .30 churn 10%", machines=u1(), load=0.30, churn=0.10, minimum=True),
    Scenario(name="U1 .30 churn 20%", machines=u1(), load=0.30, churn=0.20, minimum=True),
    Scenario(name="U1 .30 churn 40%", machines=u1(), load=0.30, churn=0.40, minimum=True),
    Scenario(name="U2 .30 churn 20%", machines=u2(), load=0.30, churn=0.20),
    Scenario(name="U3 .30 churn 20%", machines=u3(), load=0.30, churn=0.20),
    Scenario(name="U1 .50 128 cores", machines=u1(128), load=0.50),
    Scenario(name="U1 .50 128 cores churn 30%", machines=u1(128), load=0.50, churn=0.30),
    Scenario(name="U1 .40 64 cores", machines=u1(64), load=0.40),
    Scenario(
        name="U1 .50 96 cores prop churn 30%",
        machines=u1(96),
        load=0.50,
        cpu="prop",
        churn=0.30,
        minimum=True,
    ),
    Scenario(name="U4 .30", machines=u4(), load=0.30, minimum=True),
    Scenario(name="U4 .30 resident", machines=u4(), load=0.30, resident=0.50),
    Scenario(name="U4 .30 churn 20%", machines=u4(), load=0.30, churn=0.20),
    Scenario(name="U5 .30", machines=u5(), load=0.30, minimum=True),
    Scenario(name="U5 .50 96 cores", machines=u5(96), load=0.50, whole_cores=16),
    Scenario(name="U4w .30", machines=u4(whole=True), load=0.30),
    Scenario(name="U1 .30 bursts", machines=u1(), load=0.30, arrivals="bursts", minimum=True),
    Scenario(name="U1 .30 diurnal", machines=u1(), load=0.30, arrivals="diurnal", minimum=True),
    Scenario(
        name="U1 .30 diurnal churn 20%", machines=u1(), load=0.30, arrivals="diurnal", churn=0.20
    ),
    Scenario(
        name="U1 .30 heavy",
        machines=u1(),
        load=0.30,
        lifetimes="heavy",
        horizon=100.0,
        warm_up=40.0,
    ),
    Scenario(
        name="48 nodes .30",
        machines=u1(each=12),
        load=0.30,
        horizon=40.0,
        warm_up=12.0,
        minimum=True,
    ),
    Scenario(
        name="4 nodes x 4 .30", machines=u1(each=1, gpus=4), load=0.30, horizon=200.0, warm_up=12.0
    ),
)
