"""Parameters, multiply-accumulates and bytes, counted and not measured."""
