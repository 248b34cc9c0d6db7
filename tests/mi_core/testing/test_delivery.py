from __future__ import annotations

import functools
import subprocess
import sys
import textwrap

import broken_backends
import pytest

import mi_core as mi
from mi_core.errors import BrokenPlugin, CheckFailed, UnknownCheck
from mi_core.testing import CATALOGUE, Subject, checks, conformance, effort, run_checks, subjects
from mi_core.testing.effort import Effort, for_examples
from mi_core.testing.strategies import seeds


@functools.cache
def model():
    return broken_backends.plain()


def broken():
    return mi.Model(
        broken_backends.ScalesTheEmbeddingBehindTheHook(model().backend), name="broken", config=model().config
    )


# -- subjects ------------------------------------------------------------------------------------------


def test_a_family_stands_for_each_of_its_example_configs():
    found = subjects("llama")
    assert [subject.name for subject in found] == [f"llama-{i}" for i in range(len(found))]
    assert len({tuple(sorted(map(str, subject.config.items()))) for subject in found}) == len(found) > 1


def test_no_parameter_of_a_family_example_is_zero_or_one():
    for subject in subjects("llama"):
        for name, parameter in subject.model.module.named_parameters():
            assert not ((parameter == 0) | (parameter == 1)).any(), name


def test_the_same_seed_gives_the_same_weights():
    one, other, third = subjects("llama", seed=3)[1], subjects("llama", seed=3)[1], subjects("llama", seed=4)[1]
    pairs = [dict(subject.model.module.named_parameters()) for subject in (one, other, third)]
    assert all((pairs[0][name] == pairs[1][name]).all() for name in pairs[0])
    assert any((pairs[0][name] != pairs[2][name]).any() for name in pairs[0])


def test_a_model_a_function_and_a_folder_are_subjects(tmp_path):
    mi.save_model(model(), tmp_path / "saved")
    for source in (model(), model, tmp_path / "saved", f"{tmp_path}/saved", Subject(model(), {}, None, "x")):
        (subject,) = subjects(source)
        assert subject.offers("attn.hook_pattern")
        assert not subject.offers("attn.hook_sink")


def test_a_family_without_examples_is_told_what_to_implement(monkeypatch):
    monkeypatch.setattr("mi_core.plugins.Plugin.implements", lambda self, hook: False)
    with pytest.raises(BrokenPlugin, match="mi_family_examples"):
        subjects("llama")


def test_checks_that_do_not_apply_are_left_out():
    (subject,) = subjects(model())
    object.__setattr__(subject, "sites", frozenset({"hook_resid_pre", "hook_resid_post"}))
    names = {name for name, _ in checks(subject)}
    assert "check_patterns_are_causal_softmaxes" not in names
    assert "check_residual_equations" in names


# -- effort --------------------------------------------------------------------------------------------


def test_the_variable_decides_how_many_examples_are_tried(monkeypatch):
    seen = []
    with effort(3):
        for_examples(lambda x: seen.append(x), x=seeds())
        assert len(seen) == 3
        monkeypatch.setenv("MI_CHECK_EXAMPLES", "7")
        seen.clear()
        for_examples(lambda x: seen.append(x), x=seeds())
        assert len(seen) == 7
    assert Effort(4).wanted == 7


def test_the_same_seed_draws_the_same_examples():
    def drawn(seed):
        seen = []
        with effort(5, seed=seed):
            for_examples(lambda x: seen.append(x), x=seeds())
        return seen

    assert drawn(1) == drawn(1) != drawn(2)


def test_what_fails_once_and_not_again_is_a_failure_that_says_so():
    calls = []

    def holds(x):
        calls.append(x)
        if len(calls) == 4:
            raise CheckFailed("it did not hold")

    with effort(10), pytest.raises(CheckFailed, match=r"it did not hold[\s\S]*depends on what ran before"):
        for_examples(holds, x=seeds())


# -- run_checks ----------------------------------------------------------------------------------------


def test_a_report_accounts_for_every_check_that_applies():
    report = run_checks(model(), examples=1, only=["residual_equations", "check_names_are_standard"])
    assert [outcome.check for outcome in report.outcomes] == ["check_names_are_standard", "check_residual_equations"]
    assert report.passed
    assert all(outcome.meaning.endswith(".") and outcome.seconds >= 0 for outcome in report.outcomes)


def test_a_failure_says_what_was_seen_what_should_be_and_the_call():
    report = run_checks(broken, examples=2, only=["residual_equations"])
    assert not report.passed
    (outcome,) = report.failures
    for part in ("resid_pre[0] = embed (+ pos_embed)", "seen:", "wanted:", "call:   model.run([["):
        assert part in outcome.problem


def test_an_unknown_check_is_refused_with_the_closest():
    with pytest.raises(UnknownCheck, match=r"Did you mean 'check_residual_equations'\?"):
        run_checks(model(), only=["residual_equation"])
    with pytest.raises(UnknownCheck, match="check_x"):
        conformance(model(), expected_failures={"check_x": "why"})


def test_nan_weights_stop_the_report_there():
    report = run_checks(
        lambda: mi.Model(broken_backends.HoldsNaN(broken_backends.plain().backend), name="n", config={})
    )
    assert [outcome.check for outcome in report.outcomes] == ["check_weights_are_finite"]
    assert "NaN" in report.stopped
    assert not report.passed


def test_ctrl_c_keeps_what_is_known():
    def stop(subject, check, number, total):
        if number == 2:
            raise KeyboardInterrupt

    report = run_checks(model(), examples=1, progress=stop)
    assert len(report.outcomes) == 2
    assert report.interrupted
    assert not report.passed


# -- the catalogue -------------------------------------------------------------------------------------


def test_every_check_says_in_one_line_what_it_means():
    for check in CATALOGUE:
        assert check.name.startswith("check_")
        assert check.meaning.endswith("."), check.name
        assert len(check.meaning) < 120, check.name


def test_no_two_checks_share_a_name():
    assert len({check.name for check in CATALOGUE}) == len(CATALOGUE)


# -- conformance ---------------------------------------------------------------------------------------


def write_suite(folder, expected=""):
    (folder / "test_suite.py").write_text(
        textwrap.dedent(f"""
        import test_delivery
        from mi_core.testing import conformance

        @conformance(test_delivery.broken, examples=2{expected})
        def test_broken(check):
            check()
        """)
    )


def suite(folder, *selected):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *selected]
    here = [str(folder), *(path for path in sys.path if path)]
    return subprocess.run(
        [*command, "test_suite.py"],
        cwd=folder,
        env={"PYTHONPATH": ":".join([*here, __file__.rpartition("/")[0]]), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_expected_failure_is_strict_in_both_directions(tmp_path):
    expected = ', expected_failures={"check_residual_equations": "scales late", "check_names_are_standard": "no"}'
    write_suite(tmp_path, expected)
    ran = suite(tmp_path, "-k", "residual_equations or names_are_standard or unembedding")
    assert "1 failed, 1 passed, " in ran.stdout, ran.stdout + ran.stderr
    assert "1 xfailed" in ran.stdout
    assert "XPASS(strict)" in ran.stdout


def test_a_check_that_fails_fails_its_own_test_and_no_other(tmp_path):
    write_suite(tmp_path)
    ran = suite(tmp_path, "-k", "residual_equations or names_are_standard")
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "test_broken[broken-check_residual_equations]" in ran.stdout


def test_the_kit_runs_without_pytest():
    code = """
import sys
sys.modules["pytest"] = None
from mi_core.testing import run_checks
assert run_checks("llama", examples=1, only=["names_are_standard"]).passed
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_library_does_not_import_the_kit():
    code = "import sys, mi_core; assert not {'hypothesis', 'mi_core.testing', 'pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
