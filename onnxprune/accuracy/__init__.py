"""How good a model is, and what cutting each group alone does to that."""
