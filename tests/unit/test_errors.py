"""Errors: what the reader sees, and that nothing is lost on the way out of another process."""

from __future__ import annotations

import pickle

import pytest

from vavl import errors
from vavl.errors import ConfigError, InputError, TrainingError, VavlError


def all_error_classes() -> list[type[VavlError]]:
    found, waiting = [], [VavlError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_loop_over_the_error_classes_sees_all_of_the_file():
    in_file = {name for name, item in vars(errors).items() if isinstance(item, type)}
    assert {kind.__name__ for kind in all_error_classes()} == in_file
    assert len(in_file) >= 8


@pytest.mark.parametrize("kind", all_error_classes(), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind):
    fault = kind("a.yaml", "data.fold", "is 9", "choose one of 0 to 4")
    copy = pickle.loads(pickle.dumps(fault))
    assert type(copy) is kind
    assert str(copy) == str(fault)
    assert (copy.file, copy.field, copy.problem, copy.fix) == (
        "a.yaml",
        "data.fold",
        "is 9",
        "choose one of 0 to 4",
    )
    assert copy.exit_code == fault.exit_code


def test_the_message_names_file_field_problem_and_fix():
    text = str(ConfigError("a.yaml", "data.fold", "is 9", "choose one of 0 to 4"))
    assert text == "a.yaml: data.fold: is 9\n  fix: choose one of 0 to 4"


def test_the_message_of_a_whole_file_has_no_empty_field():
    assert (
        str(VavlError("a.wav", "", "is empty", "record it again"))
        == "a.wav: is empty\n  fix: record it again"
    )


def test_bad_input_and_failed_work_have_different_exit_codes():
    assert InputError("", "", "", "").exit_code == 2
    assert TrainingError("", "", "", "").exit_code == 1
    assert {kind.exit_code for kind in all_error_classes() if issubclass(kind, InputError)} == {2}
