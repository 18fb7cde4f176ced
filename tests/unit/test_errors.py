"""Errors: what the reader sees, and that nothing is lost on the way out of another process."""

from __future__ import annotations

import pickle

import pytest

from vavl import errors
from vavl.errors import ConfigError, InputError, TrainingError, VavlError, proxy_hint


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
    assert (copy.file, copy.field, copy.problem, copy.fix) == ("a.yaml", "data.fold", "is 9", "choose one of 0 to 4")
    assert copy.exit_code == fault.exit_code


def test_the_message_names_file_field_problem_and_fix():
    text = str(ConfigError("a.yaml", "data.fold", "is 9", "choose one of 0 to 4"))
    assert text == "a.yaml: data.fold: is 9\n  fix: choose one of 0 to 4"


def test_the_message_of_a_whole_file_has_no_empty_field():
    assert str(VavlError("a.wav", "", "is empty", "record it again")) == "a.wav: is empty\n  fix: record it again"


def test_bad_input_and_failed_work_have_different_exit_codes():
    assert InputError("", "", "", "").exit_code == 2
    assert TrainingError("", "", "", "").exit_code == 1
    assert {kind.exit_code for kind in all_error_classes() if issubclass(kind, InputError)} == {2}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy"])
def test_a_proxy_that_stands_in_the_way_is_named_with_the_way_around_it(proxy, name):
    assert proxy_hint("127.0.0.1") == ""
    proxy.setenv(name, "http://proxy:3128")
    assert f"{name} is set" in proxy_hint("127.0.0.1")
    assert "export NO_PROXY=127.0.0.1" in proxy_hint("127.0.0.1")
    proxy.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert proxy_hint("127.0.0.1") == ""


def test_a_tracking_server_behind_a_wrong_proxy_is_said_so(proxy):
    from vavl.tracking.settings import TrackingPlace, unreachable_reason

    place = TrackingPlace("http://127.0.0.1:9", None)
    assert "PROXY" not in str(unreachable_reason(place, 5))
    proxy.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert "export NO_PROXY=127.0.0.1" in str(unreachable_reason(place, 5))
