import pytest

from mi_core import registry
from mi_core.cli.main import main
from mi_core.plugins import names


def test_every_family_says_what_was_verified(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "not verified" not in printed
    assert all(family in printed for family in names("mi_core.families"))
    assert "embedded model" in printed
    assert "falcon_h1" in printed  # what is known and not read is said to be so


@pytest.mark.parametrize("name", ["qwen3", "rwkv7", "tiny-world"])
def test_a_page_is_shown_whole(capsys, name):
    assert main(["models", name]) == 0
    printed = capsys.readouterr().out
    assert str(registry.page(name).data["summary"])[:40] in printed
    assert "verified" in printed or "scores" in printed


def test_a_name_without_a_page_is_refused(capsys):
    assert main(["models", "qwen33"]) == 2
    assert "Did you mean 'qwen3'?" in capsys.readouterr().err
