import pytest
from tiny_llama import tiny_llama

import mi_core as mi
from mi_analyses import logit_lens
from mi_core.analyses import Analysis, require
from mi_core.errors import UnknownPlugin, UnsupportedAnalysis


def test_an_analysis_is_found_by_its_name():
    assert mi.analysis("logit_lens") is logit_lens


def test_an_unknown_analysis_is_answered_with_the_closest():
    with pytest.raises(UnknownPlugin, match="logit_lens"):
        mi.analysis("logit_lense")


def test_a_model_without_a_needed_site_is_refused_with_what_it_is():
    model = tiny_llama()
    require(model, ("hook_resid_pre", "attn.hook_result"), "mine")  # the second is on demand, and there
    with pytest.raises(UnsupportedAnalysis, match=r"mine cannot read 'build'.*'attn.hook_sink' \(the share") as caught:
        require(model, ("hook_resid_pre", "attn.hook_sink", "own.hook_thing"), "mine")
    assert caught.value.missing == ("attn.hook_sink", "own.hook_thing")


def test_an_analysis_is_plain_data():
    assert Analysis("why?", ("hook_resid_post",), logit_lens) == Analysis("why?", ("hook_resid_post",), logit_lens)
