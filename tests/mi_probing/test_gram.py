"""Gram matrices by halves against the whole product."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_probing.gram import COLUMNS, gram_of


@given(st.integers(1, 2 * COLUMNS + 5), st.booleans(), st.integers(0, 9))
def test_half_a_product_and_its_mirror_image_are_the_product(width, weighted, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 7, width, generator=draw, dtype=torch.float64)
    weights = torch.rand(7, generator=draw, dtype=torch.float64) if weighted else None
    seen = gram_of(x, weights)
    torch.testing.assert_close(seen, x.transpose(1, 2) @ (x if weights is None else weights[:, None] * x))
    assert torch.equal(seen, seen.transpose(1, 2))
