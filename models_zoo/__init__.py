"""Model builders, recipes, and the small trained network that is shipped with its data."""
