import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small

import mi_core as mi
from mi_analyses import ActivationPCA, activation_pca
from mi_core.cli.main import main
from mi_core.errors import SelectorError, UnsupportedAnalysis

MODEL = small()
PROMPTS = [[(3 * row + column * column) % 60 for column in range(3 + row % 4)] for row in range(9)]


@given(
    st.integers(1, 8), st.sampled_from([-1, 1]), st.sampled_from(["hook_resid_post", "hook_mlp_out", "mlp.hook_post"])
)
def test_components_are_those_of_the_covariance(count, pos, site):
    result = activation_pca(MODEL, PROMPTS, site=site, pos=pos, n_components=count)
    for layer in result.share.coords["layer"]:
        x = MODEL.run(PROMPTS, mi.capture(f"blocks.{layer}.{site}").at(pos=pos)).stack(site)[0].double()
        values, vectors = torch.linalg.eigh(x.T.cov())
        found = result.components.sel(layer=layer).values.double()
        torch.testing.assert_close(
            result.variance.sel(layer=layer).values.double(), values.flip(0)[:count], rtol=1e-3, atol=1e-6
        )
        torch.testing.assert_close(found @ found.T, torch.eye(count).double(), rtol=0, atol=1e-5)
        assert float((found[0] @ vectors[:, -1]).abs()) == pytest.approx(1, abs=1e-3)
        scores = result.project(x.float(), layer)
        torch.testing.assert_close(result.scores.sel(layer=layer).values, scores, rtol=1e-3, atol=1e-4)


def test_all_components_together_give_the_activations_back():
    result = activation_pca(MODEL, PROMPTS, n_components=8)
    x = MODEL.run(PROMPTS, mi.capture("blocks.1.hook_resid_post").at(pos=-1))["blocks.1.hook_resid_post"]
    torch.testing.assert_close(result.reconstruct(result.project(x, 1), 1), x, rtol=1e-4, atol=1e-4)
    assert result.share.sel(layer=1).values.sum() == pytest.approx(1, abs=1e-5)


REFUSED = [
    ({"n_components": 9}, SelectorError, "from 1 to 8"),
    ({"labels": ["a"]}, SelectorError, "1 labels for 9 prompts"),
    ({"site": "attn.hook_z"}, SelectorError, "batch, pos and one more"),
    ({"pos": [0, 1]}, SelectorError, "select one"),
    ({"site": "hook_nothing"}, UnsupportedAnalysis, "hook_nothing"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED)
def test_what_cannot_be_decomposed_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        activation_pca(MODEL, PROMPTS, **wrong)


def test_the_command_prints_and_draws(capsys, tmp_path):
    prompts, html, data = (tmp_path / name for name in ("prompts.txt", "page.html", "numbers.json"))
    countries = ("France", "Japan", "Egypt", "Italy", "Spain")
    prompts.write_text("\n".join(f"The capital of {country} is" for country in countries), encoding="utf-8")
    assert main(["pca", "tiny-world", str(prompts), "--layer", "1", "--html", str(html), "--json", str(data)]) == 0
    assert "share of the variance" in capsys.readouterr().out
    result = ActivationPCA.from_json(data)
    assert result.scores.shape == (1, 5, 3)
    assert ActivationPCA.from_json(result.to_json()) == result
    page = html.read_text(encoding="utf-8")
    assert page.count("<circle") == 5
    assert "The capital of Egypt is" in page
