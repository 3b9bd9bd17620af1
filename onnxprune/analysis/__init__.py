"""Which channels are one: the graph run on ids, and the groups that come of it."""
