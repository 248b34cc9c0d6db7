from mi_core.testing import conformance


@conformance("mingru")
def test_mingru_keeps_the_contract(check):
    check()
