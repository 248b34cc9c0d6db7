"""Hook points, backend protocols, plans and loading for mechanistic interpretability."""
