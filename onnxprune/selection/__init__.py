"""Which units go: patterns, ratios, widths that a machine likes."""
