"""Writers: a dictionary in our own layout, in SAELens', or in circuit-tracer's; what a layout cannot say is refused."""

from mi_dictionaries.writing.circuit_tracer import save_circuit_tracer
from mi_dictionaries.writing.own import save
from mi_dictionaries.writing.saelens import save_saelens

__all__ = ["save", "save_circuit_tracer", "save_saelens"]
