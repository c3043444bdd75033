import re

import pytest

from extender.core.reason import EXPLANATIONS, STEP_ONE, Reason, leaves_no_mark


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained_with_a_remedy(reason: Reason) -> None:
    meaning, remedy = reason.explanation
    assert meaning.endswith(".")
    assert remedy.endswith(".")


def test_nothing_is_explained_that_is_no_reason() -> None:
    assert set(EXPLANATIONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_one_word_in_pascal_case_named_like_its_member(reason: Reason) -> None:
    assert re.fullmatch(r"(?:[A-Z][a-z]+)+", reason.value)
    assert reason.name == re.sub(r"(?<!^)(?=[A-Z])", "_", reason.value).upper()


def test_no_two_reasons_share_a_code() -> None:
    # An enum makes members of equal value aliases of one another, which iteration passes over.
    assert len(Reason.__members__) == len({reason.value for reason in Reason})


def test_only_pods_that_are_not_ours_to_change_go_without_any_mark() -> None:
    unmarked = {reason for reason in Reason if leaves_no_mark(reason)}
    assert unmarked == {
        Reason.NO_GPU_REQUEST,
        Reason.ALREADY_MIG,
        Reason.MIRROR_POD,
        Reason.DISABLED,
    }
    assert unmarked <= set(STEP_ONE)
