"""Plug-ins are found by the entry points of installed distributions; what is wrong with one is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugin_distributions import install_plugin

from vavl.config.plugins import load_plugin, missing_plugin, plugin_distribution

GROUP = "vavl.test"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_plugin(tmp_path / "one", monkeypatch, GROUP, "agreement_loss", "agreement", "loss")
    return tmp_path


def test_a_plugin_is_what_its_entry_point_names(installed):
    import agreement_loss

    assert load_plugin(GROUP, "agreement", object) is agreement_loss.agreement
    assert plugin_distribution(GROUP, "agreement") == "own-plugin"


def test_an_unknown_name_comes_with_the_nearest_one_and_what_is_installed(installed):
    with pytest.raises(
        ValueError, match=r"`agrement` is not known; did you mean `agreement`\?; installed plug-ins"
    ) as e:
        load_plugin(GROUP, "agrement", object)
    assert str(e.value).endswith("(vavl.test): agreement (own-plugin), loss (own-plugin)")


def test_without_any_plugin_that_is_said():
    with pytest.raises(ValueError, match=r"^`agreement` is not known; installed plug-ins \(vavl.test\): none$"):
        load_plugin(GROUP, "agreement", object)


def test_a_built_in_name_may_be_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean `log_mel`\?"):
        load_plugin(GROUP, "logmel", object, known=("log_mel", "functionals"))


def test_an_object_of_another_class_is_refused(installed):
    with pytest.raises(
        ValueError, match=r"agreement_loss:loss of own-plugin is <function loss .* not an object of int"
    ):
        load_plugin(GROUP, "loss", int)


def test_a_module_that_raises_is_named(installed):
    (installed / "one/agreement_loss.py").write_text("raise OSError('no driver')")
    with pytest.raises(
        ValueError, match=r"agreement_loss:loss of own-plugin cannot be imported: OSError\('no driver'\)"
    ):
        load_plugin(GROUP, "loss", object)


def test_two_distributions_of_one_name_are_refused(installed, monkeypatch):
    install_plugin(installed / "two", monkeypatch, GROUP, "loudness_extractor", "loss", distribution="other")
    with pytest.raises(ValueError, match=r"several distributions bring a plug-in `loss`.*: other, own-plugin"):
        load_plugin(GROUP, "loss", object)


def test_an_entry_point_is_named_like_a_variable(installed):
    file = installed / "one/own_plugin-1.2.dist-info/entry_points.txt"
    file.write_text(file.read_text().replace("loss =", "loss/../best ="))
    with pytest.raises(ValueError, match=r"entry point `loss/../best` \(vavl.test\) of own-plugin has no name of let"):
        load_plugin(GROUP, "loss/../best", object)


def test_features_of_a_plugin_need_its_distribution(installed):
    assert missing_plugin({"extractor": "log_mel", "settings": {}}) is None
    assert missing_plugin({"extractor": "loudness", "settings": {"distribution": "own-plugin"}}) is None
    missing = missing_plugin({"extractor": "loudness", "settings": {"distribution": "gone"}})
    assert missing == "are made by the plug-in `loudness` of gone, which is not installed here"
