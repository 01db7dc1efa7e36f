"""A teacher in eight bits, in a whole run."""

import pytest

import tutelage
from tutelage.core.errors import SettingError

pytest.importorskip("torchao", reason="extra 'quantise' is not installed")


def test_a_run_with_a_teacher_in_eight_bits(new_run, teacher_folder):
    made = new_run(recipe="forward_kl", args={}, train={"steps": 2, "batch_size": 4, "max_length": 96})
    plain = tutelage.run(made)
    made["models"]["teacher"], made["name"] = {"load": str(teacher_folder), "bits": 8}, "eight"
    small = tutelage.run(made)
    one, other = (done.evaluation["after"]["fidelity"]["kl"] for done in (plain, small))
    assert one != other and abs(one - other) < 0.1 * one


def test_what_trains_is_not_quantised(new_run, teacher_folder):
    made = new_run(recipe="forward_kl", args={}, train={"steps": 2})
    made["models"]["student"] = {"load": str(teacher_folder), "bits": 8}
    with pytest.raises(SettingError, match="only speaks"):
        tutelage.run(made)
