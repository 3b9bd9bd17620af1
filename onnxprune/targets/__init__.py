"""Which units go so that something holds in the end, and what each width costs."""
