import json
import os
import signal
import subprocess
import sys

import pytest
from tiny_llama import write_tiny_llama
from toy_family import installed

from mi_core.cli.main import main
from mi_core.errors import MiError, UnknownPlugin

COMMAND = """
from mi_core.hookspecs import hookimpl
from mi_core.errors import UnknownPoint

def greet(name: str = "you", fail: bool = False, crash: bool = False):
    '''Greet somebody.

    At length.
    '''
    if fail:
        raise UnknownPoint("no point [bold]'x'[/bold]", name="x")
    if crash:
        raise ValueError("a bug")
    print("hello", name)

@hookimpl
def mi_command():
    return greet
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def greeting(tmp_path):
    points = {"mi_core.commands": {"greet": "greeting_command"}}
    with installed(tmp_path, "greeting", points, {"greeting_command": COMMAND}):
        yield


def mi(*arguments, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mi_core.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment},
    )


def test_the_help_lists_every_command_with_its_summary(capsys, greeting):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "Greet somebody. (greeting)" in shown
    assert "At length" not in shown
    for name in ("lens", "models", "points", "check"):
        assert name in shown


def test_a_broken_command_is_reported_and_hurts_no_other(capsys, tmp_path, greeting):
    broken = {"mi_core.commands": {"bad": "bad_command"}}
    with installed(tmp_path / "bad", "badly", broken, {"bad_command": "import nowhere_to_be_found"}):
        assert main(["--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "nowhere_to_be_found" in shown
        assert "from badly 1.0" in shown
        assert "Greet somebody" in shown
        assert main(["greet", "--name", "Ada"]) == 0
        assert "hello Ada" in capsys.readouterr().out
        assert main(["bad"]) == 2
        assert capsys.readouterr().err.startswith("BrokenPlugin: ")


def test_an_unknown_command_is_answered_with_the_closest(capsys):
    assert main(["lense"]) == 2
    seen = capsys.readouterr()
    assert seen.err.startswith("UnknownPlugin: mi has no command 'lense'. Did you mean 'lens'?")
    assert not seen.out
    assert main(["--nonsense"]) == 2
    assert "'--nonsense'" in capsys.readouterr().err


def test_an_error_of_ours_is_one_message_and_the_exit_status_two(capsys, greeting):
    assert main(["greet", "--fail"]) == 2
    assert capsys.readouterr().err == "UnknownPoint: no point [bold]'x'[/bold]\n"


def test_debugging_shows_the_traceback(greeting, monkeypatch):
    with pytest.raises(MiError):
        main(["greet", "--fail", "--debug"])
    with pytest.raises(MiError):
        main(["--debug", "greet", "--fail"])
    monkeypatch.setenv("MI_DEBUG", "1")
    with pytest.raises(UnknownPlugin):
        main(["lense"])


def test_a_bug_stays_a_traceback(greeting):
    with pytest.raises(ValueError, match="a bug"):
        main(["greet", "--crash"])


def test_a_wrong_option_is_the_exit_status_two(capsys, greeting):
    assert main(["greet", "--shout"]) == 2
    assert "--shout" in capsys.readouterr().err
    assert main(["greet", "--help"]) == 0
    assert "At length" in capsys.readouterr().out


def test_the_version_is_printed_without_loading_anything():
    code = (
        "import sys; from mi_core.cli.main import main; main(['--version']);"
        "print([m for m in ('typer', 'rich', 'mi_analyses', 'transformers') if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert seen.splitlines()[0].startswith("mi-core ")
    assert seen.splitlines()[1] == "[]"


def test_one_command_imports_no_other_plugin():
    code = (
        "import sys; from mi_core.cli.main import main; main(['points', '--help']);"
        "print([m for m in sys.modules if m.startswith(('mi_analyses', 'mi_families', 'mi_core.cli.models'))])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert seen.splitlines()[-1] == "[]"


def test_an_interrupt_is_the_exit_status_130(monkeypatch, greeting):
    import mi_core.cli.main as module

    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "dispatch", interrupted)
    assert main(["greet"]) == 130


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no pipes that break on this platform")
def test_a_reader_that_leaves_causes_no_complaint():
    process = subprocess.Popen(
        [sys.executable, "-m", "mi_core.cli.main", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=120)
    assert complaints == ""


def test_models_lists_what_is_installed_and_what_is_broken(capsys, tmp_path):
    broken = {"mi_core.families": {"badly": "bad_family"}}
    with installed(tmp_path, "badly", broken, {"bad_family": "1 / 0"}):
        assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "llama family mi-core" in shown
    assert "badly family badly broken" in shown
    assert "BrokenPlugin: the plugin 'badly'" in shown
    assert "ZeroDivisionError" in shown


def test_points_lists_sites_with_their_sizes_and_meaning(capsys, folder):
    assert main(["points", folder, "blocks.{0..1}.attn.*"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "blocks.{0..1}.attn.hook_q" in shown
    assert "d_head=8" in shown
    assert "queries" in shown
    assert main(["points", folder, "blocks.*.attn.hook_patern"]) == 2
    assert "hook_pattern" in capsys.readouterr().err


def test_the_lens_is_printed_and_written(capsys, folder, tmp_path):
    html, data = tmp_path / "lens.html", tmp_path / "lens.json"
    text = "The capital of France is"
    assert main(["lens", folder, text, "--html", str(html), "--json", str(data), "--top", "3", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for label in ("0.pre", "0.mid", "2.post", "top 3", "nats", "KL"):
        assert label in shown
    assert "\x1b[" not in shown
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    saved = json.loads(data.read_text(encoding="utf-8"))
    assert saved["result"] == "LogitLens"
    assert saved["fields"]["provenance"]["$resultprovenance"]["prompts"] == [text]
    assert main(["lens", folder, text, "--pos", "all"]) == 0
    assert "France" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lens", "{folder}", "hello", "--pos", "second"], "'second' is no position"),
        (["lens", "{folder}", "hello", "--html", "/nowhere/at/all.html"], "no folder"),
        (["lens", "{folder}", "hello", "--pos", "99"], "SelectorError"),
        (["lens", "{folder}", ""], "hello|EmptyInput|"),
        (["lens", "{folder}", "hello", "--token", "several tokens here"], "NotSingleToken"),
        (["lens", "./no-such-folder", "hello"], "ModelNotFound"),
    ],
)
def test_bad_input_is_one_message_and_the_exit_status_two(capsys, folder, arguments, message):
    status = main([part.replace("{folder}", folder) for part in arguments])
    error = " ".join(capsys.readouterr().err.split())
    if arguments[2] == "":  # a tokenizer with a BOS has something to read
        assert status == 0
        return
    assert status == 2
    assert message in error
    assert "Traceback" not in error


def test_output_in_a_pipe_is_plain_and_whole(folder):
    for columns in ("33", "80", "200"):
        seen = mi("lens", folder, "The capital of France is", "--device", "cpu", COLUMNS=columns)
        assert seen.returncode == 0, seen.stderr
        assert "\x1b" not in seen.stdout
        assert "…" not in seen.stdout
        assert max(map(len, seen.stdout.splitlines())) <= int(columns)


def test_a_terminal_that_lacks_signs_shows_question_marks(folder):
    seen = mi("lens", folder, "The capital of France is", "--device", "cpu", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert seen.returncode == 0, seen.stderr
    assert "?" in seen.stdout
