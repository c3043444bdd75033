"""Step 2 of `core/eligible.py`: would a slice do what the pod expects of a GPU?"""

import pytest

from extender.core.reason import Reason
from tests.build import (
    GPU,
    JSON,
    annotated,
    changed,
    container,
    decided,
    mig,
    node,
    pod,
)
from tests.core.test_eligible import BY_RULE, labelled, owned, reason, slice_of


@pytest.mark.parametrize(("gpu", "count"), [("2", "2"), (2, "2"), ("1k", "1000")])
def test_a_container_that_asks_for_several_gpus_is_left(gpu: object, count: str) -> None:
    decision = decided(pod(container("asr"), container("llm", gpu)))
    assert decision.reason is Reason.MULTI_GPU
    assert f"container llm asks for {count} GPUs" in decision.message


def test_several_containers_may_ask_for_one_gpu_each() -> None:
    assert reason(pod(container("asr"), container("tts"))) is Reason.FITS


def test_gpus_and_slices_in_one_pod_are_left() -> None:
    assert reason(pod(container(), slice_of())) is Reason.MIXED_REQUESTS
    none_of_it = changed(slice_of(), "resources", "limits", mig("2g.20gb"), to="0")
    assert reason(pod(container(), none_of_it)) is Reason.FITS


SMALL_SHARES: list[JSON] = [
    {"args": ["--gpu-memory-utilization", "0.5"]},
    {"args": ["--gpu-memory-utilization=0.79"]},
    {"args": ["--gpu_memory_utilization=.5"]},
    {"args": ["--mem-fraction-static", "0.3"]},
    {"command": ["sh", "-c", "vllm serve m --gpu-memory-utilization 0.45 --port 80"]},
    {"command": ["sh", "-c", 'vllm serve m --gpu-memory-utilization="0.45"']},
    {"args": ["--kv-cache-free-gpu-mem-fraction=0.2"]},
    {"args": ["--gpu-memory-utilization", "0.95", "--gpu-memory-utilization", "0.5"]},
    {"env": [{"name": "XLA_PYTHON_CLIENT_MEM_FRACTION", "value": ".25"}]},
    {"env": [{"name": "GPU_MEMORY_UTILIZATION", "value": " 0.6 "}]},
    {"args": ["--per_process_gpu_memory_fraction=0.3"]},
    {"args": ["--backend-config=tensorflow,gpu-memory-fraction=0.4"]},
    {"args": ["--cache-max-entry-count", "0.2"]},
    {"args": ["--config", '{"gpu_memory_utilization": 0.5}']},
    {"command": ["python", "-c", "torch.cuda.set_per_process_memory_fraction(0.3)"]},
    {"args": ["--gpu-memory-utilization", "45%"]},
    {"env": [{"name": "NIM_KVCACHE_PERCENT", "value": "0.25"}]},
    {"env": [{"name": "EXTRA_ARGS", "value": "--port 80 --gpu-memory-utilization 0.5"}]},
    {"env": [{"name": "JAVA_OPT_1", "value": "-Dspark.rapids.memory.gpu.allocFraction=0.4"}]},
    {"args": ["--gpu-memory-utilization=$(SHARE)"], "env": [{"name": "SHARE", "value": "0.5"}]},
    {
        "command": ["sh", "-c", "vllm serve m --gpu-memory-utilization ${SHARE:-0.9}"],
        "env": [{"name": "SHARE", "value": "0.9"}, {"name": "SHARE", "value": "0.5"}],
    },
]


@pytest.mark.parametrize("fields", SMALL_SHARES)
def test_a_program_that_takes_a_small_share_of_the_card_is_left(fields: JSON) -> None:
    assert reason(pod(container(**fields), footprint=None), BY_RULE) is Reason.FRACTION_OF_CARD


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ["--gpu-memory-utilization", "0.8"]},
        {"args": ["--gpu-memory-utilization=0.9"]},
        {"args": ["--gpu-memory-utilization"]},
        {"args": ["--gpu-memory-utilization", "0"]},
        {"args": ["--gpu-memory-utilization", "$(SHARE)"]},
        {"args": ["--gpu-memory-utilization", "1.2.3"]},
        {"args": ["--gpu-memory-utilization", "0.5x"]},
        {"args": ["--gpu-memory-utilization", "50"]},
        {"args": ["--gpu-memory-utilization", "9" * 100_000]},
        {"args": ["--gpu-memory-utilization", "$(SHARE)" * 20_000]},
        {"args": ["--gpu-memory-utilization=$(SHARE)"], "env": [{"name": "SHARE", "value": "0.9"}]},
        {
            "args": ["--gpu-memory-utilization=$(SHARE)"],
            "env": [{"name": "SHARE", "value": "0.5"}, {"name": "SHARE", "valueFrom": {}}],
        },
        {"args": ["--temperature", "0.5"]},
        {"args": ["--gpu-memory-utilization-report", "0.5"]},
        {"env": [{"name": "XLA_PYTHON_CLIENT_MEM_FRACTION", "value": "0.9"}]},
        {"env": [{"name": "TEMPERATURE", "value": "0.5"}]},
        {"env": [{"name": "GPU_MEMORY_UTILIZATION", "valueFrom": {}}]},
    ],
)
def test_a_program_that_takes_most_of_the_card_it_sees_may_have_a_slice(fields: JSON) -> None:
    assert reason(pod(container(**fields), footprint=None), BY_RULE) is Reason.FITS


def test_shares_of_containers_without_gpus_do_not_matter() -> None:
    test_client = container("client", None, args=["--gpu-memory-utilization", "0.5"])
    assert reason(pod(container(), test_client, footprint=None), BY_RULE) is Reason.FITS


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ("compute,utility", Reason.FITS),
        ("all", Reason.FITS),
        ("", Reason.FITS),
        ("compute,video", Reason.NEEDS_ENGINES),
        ("graphics, utility", Reason.NEEDS_ENGINES),
        ("display", Reason.NEEDS_ENGINES),
    ],
)
def test_a_pod_that_asks_for_engines_by_name_is_left(capabilities: str, expected: Reason) -> None:
    env = [{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": capabilities}]
    assert reason(pod(container(env=env), footprint=None), BY_RULE) is expected


def test_of_a_variable_given_twice_the_last_counts() -> None:
    names = ["NVIDIA_DRIVER_CAPABILITIES"] * 2
    for values, expected in (
        (("video", "compute"), Reason.FITS),
        (("compute", "video"), Reason.NEEDS_ENGINES),
    ):
        env = [{"name": n, "value": v} for n, v in zip(names, values, strict=True)]
        assert reason(pod(container(env=env), footprint=None), BY_RULE) is expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-hwaccel", "cuda", "-i", "in.mov"], Reason.NEEDS_ENGINES),
        (["-i", "in.mov", "-c:v", "h264_nvenc"], Reason.NEEDS_ENGINES),
        (["filesrc", "!", "nvh264dec", "!", "fakesink"], Reason.NEEDS_ENGINES),
        (["-hwaccel", "none", "-i", "in.mov"], Reason.FITS),
        (["-i", "in.mov", "-c:v", "libx264"], Reason.FITS),
    ],
)
def test_a_command_line_with_codecs_of_the_card_is_left(args: list[str], expected: Reason) -> None:
    assert reason(pod(container(args=args), footprint=None), BY_RULE) is expected


@pytest.mark.parametrize(
    "kind", ["MPIJob", "PyTorchJob", "JobSet", "LeaderWorkerSet", "TFJob", "RayCluster"]
)
def test_a_pod_of_a_distributed_job_is_left(kind: str) -> None:
    assert reason(owned(kind), BY_RULE) is Reason.DISTRIBUTED


@pytest.mark.parametrize(
    "label",
    [
        "jobset.sigs.k8s.io/jobset-name",
        "leaderworkerset.sigs.k8s.io/name",
        "ray.io/cluster",
        "training.kubeflow.org/job-name",
    ],
)
def test_a_pod_labelled_as_one_of_several_processes_is_left(label: str) -> None:
    assert reason(labelled(pod(footprint=None), label), BY_RULE) is Reason.DISTRIBUTED


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("2", Reason.DISTRIBUTED),
        ("0016", Reason.DISTRIBUTED),
        ("9" * 5000, Reason.DISTRIBUTED),
        ("1", Reason.FITS),
        ("01", Reason.FITS),
        ("0", Reason.FITS),
        ("", Reason.FITS),
        ("two", Reason.FITS),
        ("²", Reason.FITS),
    ],
)
def test_a_world_of_several_processes_is_left(size: str, expected: Reason) -> None:
    env = [{"name": "WORLD_SIZE", "value": size}]
    assert reason(pod(container(env=env), footprint=None), BY_RULE) is expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["torchrun", "--nnodes=4", "train.py"], Reason.DISTRIBUTED),
        (["torchrun", "--nnodes", "1:4", "train.py"], Reason.DISTRIBUTED),
        (["torchrun", "--nnodes=$(NODES)"], Reason.DISTRIBUTED),
        (["accelerate", "launch", "--num_machines", "2"], Reason.DISTRIBUTED),
        (["vllm", "serve", "m", "--tensor-parallel-size", "2"], Reason.DISTRIBUTED),
        (["vllm", "serve", "m", "-tp", "2"], Reason.DISTRIBUTED),
        (["launch_server", "--tp", "2"], Reason.DISTRIBUTED),
        (["torchrun", "--nnodes=1", "--nproc-per-node=1"], Reason.FITS),
        (["torchrun", "--standalone", "--nnodes=1:1"], Reason.FITS),
        (["vllm", "serve", "m", "--tensor-parallel-size", "1"], Reason.FITS),
        (["--http", "2", "--num-processes", "8"], Reason.FITS),
    ],
)
def test_a_command_line_for_several_processes_is_left(args: list[str], expected: Reason) -> None:
    env = [{"name": "NODES", "value": "3"}]
    assert reason(pod(container(args=args, env=env), footprint=None), BY_RULE) is expected


DOUBTFUL: list[JSON] = [
    pod(container(args=["--gpu-memory-utilization", "0.5"]), footprint=None),
    pod(container(env=[{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "video"}]), footprint=None),
    owned("PyTorchJob"),
]


@pytest.mark.parametrize("tree", DOUBTFUL)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("migfit.io/gpu-memory", "9.6G"),
        ("gpu-memory.migfit.io/asr", "9.6G"),
        ("migfit.io/profile", "2g.20gb"),
    ],
)
def test_what_the_pod_itself_declares_overrules_such_doubts(
    tree: JSON, key: str, value: str
) -> None:
    tree = changed(tree, "metadata", "annotations", key, to=value)
    assert reason(tree, BY_RULE) is Reason.FITS


@pytest.mark.parametrize("tree", DOUBTFUL)
def test_what_only_the_admin_declares_does_not(tree: JSON) -> None:
    assert reason(tree, BY_RULE) in {
        Reason.FRACTION_OF_CARD,
        Reason.NEEDS_ENGINES,
        Reason.DISTRIBUTED,
    }
    assert reason(annotated(tree, headroom="0"), BY_RULE) is reason(tree, BY_RULE)


def test_what_a_pod_declares_does_not_overrule_facts() -> None:
    assert reason(pod(container(gpu="2"))) is Reason.MULTI_GPU
    tree = annotated(pod(container(), slice_of()), profile="2g.20gb")
    assert reason(tree) is Reason.MIXED_REQUESTS


@pytest.mark.parametrize("kind", ["Container", "Pod"])
@pytest.mark.parametrize(
    ("bound", "count"), [("min", "1"), ("min", "0"), ("max", "1"), ("maxLimitRequestRatio", "1")]
)
def test_any_bound_on_gpus_in_a_limit_range_leaves_the_pod(
    bound: str, count: str, kind: str
) -> None:
    limit = {
        "metadata": {"name": "gpus", "namespace": "speech"},
        "spec": {"limits": [{"type": kind, bound: {GPU: count}}]},
    }
    decision = decided(pod(), node(), limits=[limit])
    assert decision.reason is Reason.LIMIT_RANGE
    assert "LimitRange gpus" in decision.message
    elsewhere = changed(limit, "metadata", "namespace", to="vision")
    assert decided(pod(), node(), limits=[elsewhere]).reason is Reason.FITS
    claims = changed(limit, "spec", "limits", 0, "type", to="PersistentVolumeClaim")
    assert decided(pod(), node(), limits=[claims]).reason is Reason.FITS
