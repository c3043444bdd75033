import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.catalogue import profile_name, shape
from extender.core.decision import Decision
from extender.core.policy import Globs, Match, Model, Policy, Rule
from extender.core.reason import Reason
from tests.build import JSON, annotated, changed, chosen, container, decided, namespace, node, pod

GB = 10**9
ASR = Model(name="asr", footprint_bytes=4 * GB, min_compute=2, images=Globs(("*/asr/*",)))
NIM = Model(name="nim", footprint_bytes=5 * GB, images=Globs(("nvcr.io/nim/*",)))
RULE = Rule(name="speech", match=Match(), footprint_bytes=3 * GB)
EVERYWHERE = Policy(models=(ASR, NIM), rules=(RULE,), when_unknown_bytes=2 * GB)
"""Every source of a footprint has one to give."""


def source(decision: Decision) -> tuple[int | None, str | None]:
    """Bytes and source of the first container."""
    return decision.changes[0].footprint_bytes, decision.changes[0].footprint_source


def said(tree: JSON, key: str, value: object) -> JSON:
    return changed(tree, "metadata", "annotations", key, to=value)


# --- precedence ------------------------------------------------------------------------------------


def test_the_nearest_source_of_a_footprint_counts() -> None:
    """All of them speak; from the nearest on they are silenced one by one."""
    tree = said(said(pod(), "gpu-memory.migfit.io/asr", "8G"), "migfit.io/model", "nim")
    policy, found = EVERYWHERE, []

    def look() -> None:
        found.append(source(decided(tree, policy=policy)))

    look()
    del tree["metadata"]["annotations"]["gpu-memory.migfit.io/asr"]
    look()
    del tree["metadata"]["annotations"]["migfit.io/gpu-memory"]
    look()
    del tree["metadata"]["annotations"]["migfit.io/model"]
    look()
    policy = Policy(models=(ASR, NIM), when_unknown_bytes=2 * GB)
    look()
    policy = Policy(models=(NIM,), when_unknown_bytes=2 * GB)
    look()
    assert found == [
        (8 * GB, "annotation"),
        (9_600_000_000, "annotation"),
        (5 * GB, "model:nim"),
        (3 * GB, "rule:speech"),
        (4 * GB, "image:asr"),
        (2 * GB, "whenUnknown"),
    ]


def test_without_any_source_the_pod_is_left_and_the_container_named() -> None:
    decision = decided(pod(container("tts"), footprint=None))
    assert decision.reason is Reason.NO_FOOTPRINT
    assert "tts" in decision.message
    assert decision.need_mib is None


def test_each_container_has_its_own_footprint_where_one_is_given() -> None:
    tree = pod(container("asr"), container("tts"), container("llm"), footprint="9.6G")
    tree = said(tree, "gpu-memory.migfit.io/tts", "1G")
    tree = said(tree, "gpu-memory.migfit.io/llm", "30G")
    assert chosen(decided(tree)) == {"asr": "2g.20gb", "tts": "1g.10gb", "llm": "3g.40gb"}


def test_one_container_without_a_footprint_leaves_them_all() -> None:
    tree = said(
        pod(container("asr"), container("tts"), footprint=None), "gpu-memory.migfit.io/asr", "8G"
    )
    decision = decided(tree)
    assert decision.reason is Reason.NO_FOOTPRINT
    assert chosen(decision) == {"asr": None, "tts": None}


def test_a_footprint_for_a_container_the_pod_does_not_have_is_a_slip() -> None:
    decision = decided(said(pod(), "gpu-memory.migfit.io/arr", "8G"))
    assert decision.reason is Reason.BAD_ANNOTATION
    assert decision.message == (
        "gpu-memory.migfit.io/arr: the pod has no such container; write gpu-memory.migfit.io/asr"
    )


def test_a_footprint_for_a_container_without_gpus_is_no_matter() -> None:
    tree = pod(container(), container("proxy", None))
    assert decided(said(tree, "gpu-memory.migfit.io/proxy", "8G")).reason is Reason.FITS


def test_a_rule_without_a_footprint_leaves_the_word_to_the_next() -> None:
    silent = Rule(name="silent", match=Match())
    policy = Policy(rules=(silent, RULE), when_unknown_bytes=2 * GB)
    # The first rule that matches is the rule of the pod, whatever it says.
    assert source(decided(pod(footprint=None), policy=policy)) == (2 * GB, "whenUnknown")


# --- models and images -----------------------------------------------------------------------------


def test_a_model_nobody_listed_is_told_by_name() -> None:
    tree = annotated(pod(footprint=None), model="whisper")
    decision = decided(tree, policy=EVERYWHERE)
    assert decision.reason is Reason.UNKNOWN_MODEL
    assert decision.message == "migfit.io/model: no model 'whisper'; write asr, nim"
    none = decided(tree)
    assert none.reason is Reason.UNKNOWN_MODEL
    assert "write migfit.io/gpu-memory: 9.6G" in none.message


def test_of_many_models_those_that_begin_like_the_one_named_are_told() -> None:
    names = [f"llama-{n}" for n in range(500)] + ["parakeet-1.1b", "whisper-large"]
    policy = Policy(models=tuple(Model(name=name, footprint_bytes=GB) for name in names))
    told = decided(annotated(pod(footprint=None), model="whisper"), policy=policy).message
    assert "write whisper-large, llama-0, llama-1 …" in told
    long = decided(annotated(pod(footprint=None), model="w" * 100_000), policy=policy).message
    assert len(long) < 200


def test_a_model_is_not_looked_for_where_a_footprint_is_declared() -> None:
    decision = decided(annotated(pod(), model="whisper"), policy=EVERYWHERE)
    assert (decision.reason, source(decision)) == (Reason.FITS, (9_600_000_000, "annotation"))


@pytest.mark.parametrize(
    ("glob", "image", "found"),
    [
        ("nvcr.io/nim/nvidia/parakeet-*", "nvcr.io/nim/nvidia/parakeet-ctc:1.0", True),
        ("nvcr.io/nim/nvidia/parakeet-ctc", "nvcr.io/nim/nvidia/parakeet-ctc:1.0", True),
        ("nvcr.io/nim/nvidia/parakeet-ctc", "nvcr.io/nim/nvidia/parakeet-ctc@sha256:0a", True),
        ("nvcr.io/nim/nvidia/parakeet-ctc", "nvcr.io/nim/nvidia/parakeet-ctc:1@sha256:0a", True),
        ("nvcr.io/nim/nvidia/parakeet-ctc:1.*", "nvcr.io/nim/nvidia/parakeet-ctc:1.0", True),
        ("nvcr.io/nim/nvidia/parakeet-ctc:2.*", "nvcr.io/nim/nvidia/parakeet-ctc:1.0", False),
        ("*/parakeet-*", "registry.local:5000/speech/parakeet-ctc", True),
        ("registry.local:5000/parakeet", "registry.local:5000/parakeet:1", True),
        ("registry.local", "registry.local:5000/parakeet", False),
        ("*/Parakeet", "speech/parakeet", False),
    ],
)
def test_images_match_with_and_without_tag_or_digest_and_a_star_crosses_slashes(
    glob: str, image: str, found: bool
) -> None:
    policy = Policy(models=(Model(name="m", footprint_bytes=4 * GB, images=Globs((glob,))),))
    decision = decided(pod(container(image=image), footprint=None), policy=policy)
    assert decision.reason is (Reason.FITS if found else Reason.NO_FOOTPRINT)


def test_a_model_without_images_is_found_by_name_only() -> None:
    policy = Policy(models=(Model(name="m", footprint_bytes=4 * GB),))
    assert decided(pod(footprint=None), policy=policy).reason is Reason.NO_FOOTPRINT
    named = annotated(pod(footprint=None), model="m")
    assert decided(named, policy=policy).reason is Reason.FITS


def test_the_first_model_whose_image_matches_counts() -> None:
    any_image = Model(name="any", footprint_bytes=1 * GB, images=Globs(("*",)))
    decision = decided(pod(footprint=None), policy=Policy(models=(ASR, any_image)))
    assert source(decision) == (4 * GB, "image:asr")


# --- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        (Match(), True),
        (Match(namespaces=Globs(("spee*", "video"))), True),
        (Match(namespaces=Globs(("video",))), False),
        (Match(labels=(("app", "asr"),)), True),
        (Match(labels=(("app", "asr"), ("tier", "gold"))), False),
        (Match(images=Globs(("*/asr/server",))), True),
        (Match(images=Globs(("*/tts/*",))), False),
        (Match(images=Globs(("envoy*",))), False),
        (Match(kinds=frozenset({"Deployment"})), True),
        (Match(kinds=frozenset({"ReplicaSet", "Job"})), False),
        (Match(namespaces=Globs(("speech",)), kinds=frozenset({"Job"})), False),
    ],
)
def test_a_rule_is_for_pods_that_match_in_all_it_names(match: Match, matches: bool) -> None:
    tree = pod(container(), container("proxy", None, image="envoy:1"), footprint=None)
    policy = Policy(rules=(Rule(name="r", match=match, footprint_bytes=4 * GB),))
    assert decided(tree, policy=policy).reason is (Reason.FITS if matches else Reason.NO_FOOTPRINT)


# --- headroom --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headroom", "need_mib"),
    [
        ("0", 9156),
        ("0%", 9156),
        ("0.5", 13733),
        ("50%", 13733),
        ("100%", 18311),
        ("1", 18311),
        ("12.5%", 10300),
    ],
)
def test_headroom_is_a_percentage_or_a_fraction(headroom: str, need_mib: int) -> None:
    assert decided(annotated(pod(), headroom=headroom)).need_mib == need_mib


def test_headroom_is_what_the_pod_says_or_its_rule_or_the_configuration() -> None:
    rule = Rule(name="r", match=Match(), headroom=Fraction(1, 2))
    by_rule, by_all = Policy(rules=(rule,), headroom=Fraction(1)), Policy(headroom=Fraction(1))
    assert decided(annotated(pod(), headroom="0"), policy=by_rule).need_mib == 9156
    assert decided(pod(), policy=by_rule).need_mib == 13733
    assert decided(pod(), policy=by_all).need_mib == 18311
    assert decided(pod()).need_mib == 10987


def test_a_footprint_of_whole_mib_needs_no_more_and_one_byte_more_does() -> None:
    policy = Policy(headroom=Fraction(0))
    assert decided(pod(footprint="9728Mi"), policy=policy).need_mib == 9728
    assert decided(pod(footprint=str(9728 * 1024**2 + 1)), policy=policy).need_mib == 9729


# --- what else a pod may ask for -------------------------------------------------------------------


def test_least_compute_is_what_the_pod_says_or_its_model_its_rule_the_configuration() -> None:
    rule = Rule(name="r", match=Match(), footprint_bytes=GB, min_compute=3)
    of_model = Policy(models=(ASR,), rules=(rule,), min_compute=1)
    tree = annotated(pod(footprint=None), model="asr")
    assert chosen(decided(tree, policy=of_model)) == {"asr": "2g.20gb"}
    assert chosen(decided(annotated(tree, min_compute="1"), policy=of_model)) == {"asr": "1g.10gb"}
    assert chosen(decided(pod(footprint=None), policy=of_model)) == {"asr": "3g.40gb"}
    by_all = Policy(min_compute=2)
    assert chosen(decided(pod(footprint="1G"), policy=by_all)) == {"asr": "2g.20gb"}


@pytest.mark.parametrize(
    ("bandwidth", "profile"), [("200G", "1g.10gb"), ("300G", "2g.20gb"), ("900G", "3g.40gb")]
)
def test_least_bandwidth_is_that_of_the_slice_not_of_the_card(bandwidth: str, profile: str) -> None:
    tree = annotated(pod(footprint="1G"), min_bandwidth=bandwidth)
    assert chosen(decided(tree)) == {"asr": profile}


def test_a_profile_needs_no_footprint() -> None:
    decision = decided(annotated(pod(footprint=None), profile="3g.40gb"))
    assert (decision.reason, chosen(decision)) == (Reason.FITS, {"asr": "3g.40gb"})
    assert decision.need_mib is None


@pytest.mark.parametrize("spelling", ["2g.20gb", "nvidia.com/mig-2g.20gb"])
def test_a_profile_may_be_named_by_its_resource(spelling: str) -> None:
    decision = decided(annotated(pod(footprint="1G"), profile=spelling))
    assert chosen(decision) == {"asr": "2g.20gb"}


@pytest.mark.parametrize("spelling", ["1g.10gb+me", "1g.10gb.me", "nvidia.com/mig-1g.10gb.me"])
def test_the_resource_of_a_special_profile_names_it_too(spelling: str) -> None:
    special = node(slices={"1g.10gb+me": 1})
    tree = annotated(pod(footprint=None), profile=spelling)
    assert decided(tree, special).profile == "1g.10gb+me"


# --- annotations that do not parse -----------------------------------------------------------------

GOOD = {
    "migfit.io/gpu-memory": "9.6G",
    "gpu-memory.migfit.io/asr": "9.6G",
    "migfit.io/headroom": "30%",
    "migfit.io/min-compute": "1",
    "migfit.io/min-bandwidth": "500G",
    "migfit.io/profile": "2g.20gb",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("migfit.io/gpu-memory", "9.6"),
        ("migfit.io/gpu-memory", "9.6GB"),
        ("migfit.io/gpu-memory", "-1G"),
        ("migfit.io/gpu-memory", "0"),
        ("migfit.io/gpu-memory", "2Ti"),
        ("migfit.io/gpu-memory", ""),
        ("migfit.io/gpu-memory", "9.6G" * 100),
        ("gpu-memory.migfit.io/asr", "9,6G"),
        ("migfit.io/headroom", "-10%"),
        ("migfit.io/headroom", "2000%"),
        ("migfit.io/headroom", "thirty"),
        ("migfit.io/min-compute", "0"),
        ("migfit.io/min-compute", "8"),
        ("migfit.io/min-compute", "2g"),
        ("migfit.io/min-compute", "\N{FULLWIDTH DIGIT TWO}"),
        ("migfit.io/min-bandwidth", "500"),
        ("migfit.io/min-bandwidth", "fast"),
        ("migfit.io/profile", "2g"),
        ("migfit.io/profile", "0g.10gb"),
        ("migfit.io/profile", "1g.10gb.shared"),
        ("migfit.io/profile", "nvidia.com/gpu"),
    ],
)
def test_a_bad_annotation_leaves_the_pod_and_its_key_and_a_good_value_are_told(
    key: str, value: str
) -> None:
    decision = decided(said(pod(), key, value))
    assert decision.reason is Reason.BAD_ANNOTATION
    assert decision.message.startswith(f"{key}: ")
    assert len(decision.message) < 200
    assert decided(said(pod(), key, value_shown(decision))).reason is not Reason.BAD_ANNOTATION


def value_shown(decision: Decision) -> str:
    """The first value that a message says to write."""
    shown = re.search(r"(?:write|at most) (?:a quantity such as )?([^ ,;]+)", decision.message)
    assert shown is not None
    return shown[1]


@given(key=st.sampled_from([*GOOD]), value=st.text(max_size=12) | st.text("019.,gGMiBbs%/- "))
def test_of_whatever_does_not_parse_the_key_and_a_value_that_does_are_told(
    key: str, value: str
) -> None:
    decision = decided(said(pod(), key, value))
    if decision.reason is Reason.BAD_ANNOTATION:
        assert decision.message.startswith(f"{key}: ")
        assert decided(said(pod(), key, value_shown(decision))).reason is not Reason.BAD_ANNOTATION


@pytest.mark.parametrize("value", ["Ignore", "off", "dryrun", "no"])
def test_a_mode_nobody_knows_leaves_the_pod_on_pod_and_namespace_alike(value: str) -> None:
    on_pod = decided(changed(pod(), "metadata", "labels", "migfit.io/mode", to=value))
    assert on_pod.reason is Reason.BAD_ANNOTATION
    assert on_pod.message == (
        f"label migfit.io/mode: '{value}' is no mode; write ignore or dry-run"
    )
    on_namespace = decided(pod(), namespaces=[namespace(mode=value)])
    assert on_namespace.reason is Reason.BAD_ANNOTATION
    assert on_namespace.message.startswith("label migfit.io/mode of the namespace: ")


@pytest.mark.parametrize("value", ["", "enforce"])
def test_a_mode_that_asks_for_nothing_changes_nothing(value: str) -> None:
    assert decided(changed(pod(), "metadata", "labels", "migfit.io/mode", to=value)).reason is (
        Reason.FITS
    )


@pytest.mark.parametrize(("key", "value"), GOOD.items())
def test_the_values_we_show_as_good_are_good(key: str, value: str) -> None:
    assert decided(said(pod(), key, value)).reason is Reason.FITS


@pytest.mark.parametrize("value", [None, 5, True, ["9.6G"], {"G": 9.6}])
def test_an_annotation_that_is_no_string_is_none(value: object) -> None:
    assert decided(said(pod(footprint=None), "migfit.io/gpu-memory", value)).reason is (
        Reason.NO_FOOTPRINT
    )
    for key in GOOD:
        decision = decided(said(pod(), key, value))
        assert decision.reason in {Reason.FITS, Reason.NO_FOOTPRINT}


def test_the_name_of_a_profile_is_remembered_only_if_it_could_be_one() -> None:
    long = "1g.10gb+" + "x" * 100_000
    caches = (profile_name, shape)
    for cache in caches:
        cache.cache_clear()
    decided(annotated(pod(), profile="none"))
    before = [cache.cache_info().currsize for cache in caches]

    for number in range(3):
        decision = decided(annotated(pod(), profile=f"{long}{number}"))
        assert decision.reason is Reason.BAD_ANNOTATION
        assert len(decision.message) < 200

    after = [cache.cache_info().currsize for cache in caches]
    assert after == [before[0], before[1] + 1], "the empty name, and no other"
