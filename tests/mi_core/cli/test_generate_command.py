import json

import pytest
from tiny_llama import write_tiny_llama

import mi_core as mi
from mi_core.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


def shown(text):
    """What a terminal is sent: bells, backspaces and carriage returns are left out."""
    return "".join(character for character in text if character not in "\a\b\v\f\r")


def test_it_writes_on_and_says_why_it_ended(folder, capsys, tmp_path):
    out = tmp_path / "out.json"
    assert main(["generate", folder, "the cat", "-n", "4", "--json", str(out)]) == 0
    made = mi.load(folder).generate("the cat", max_new_tokens=4)
    seen = capsys.readouterr().out
    assert seen.startswith(shown("the cat" + made.text[0]))
    assert seen.endswith("4 tokens, length\n")
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["ids"] == made.new_tokens[0]
    assert data["receipt"]["tokens"] == list(made.receipt.tokens)


def test_a_saved_spec_acts(folder, capsys, tmp_path):
    spec = mi.intervene("blocks.1.hook_resid_post", mi.Scale(-3.0).at(pos=mi.GENERATED))
    spec += mi.intervene("blocks.0.hook_resid_post", mi.Zero().at(pos=50))
    spec.save(tmp_path / "spec.json")
    assert main(["generate", folder, "the cat", "-n", "6", "--spec", str(tmp_path / "spec.json")]) == 0
    seen = capsys.readouterr().out
    model = mi.load(folder)
    edited = model.generate("the cat", spec, max_new_tokens=6)
    assert edited.text != model.generate("the cat", max_new_tokens=6).text
    assert seen.startswith(shown("the cat" + edited.text[0]))
    assert "pos 50 was not reached" in seen


def test_samples_show_their_seed_and_can_be_had_again(folder, capsys):
    sampled = ["generate", folder, "the cat", "-n", "6", "--temperature", "2", "--top-k", "50", "--seed"]
    assert main([*sampled, "5"]) == 0
    seen = capsys.readouterr().out
    assert seen.endswith("seed 5\n")
    main([*sampled, "5"])
    assert capsys.readouterr().out == seen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], "max_new_tokens=0"),
        (["--top-p", "3"], "top_p=3.0"),
        (["-n", "5000"], "new tokens fit, not 5000"),
        (["--spec", "nowhere.json"], "nowhere.json"),
        (["--json", "nowhere/out.json"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_message(folder, capsys, words, message):
    assert main(["generate", folder, "the cat", *words]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
