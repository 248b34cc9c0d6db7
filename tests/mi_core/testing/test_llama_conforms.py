from __future__ import annotations

from mi_core.testing import conformance


@conformance("llama")
def test_llama(check):
    check()
