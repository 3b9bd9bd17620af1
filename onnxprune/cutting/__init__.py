"""Plans: what goes where, the file they are kept in, and a model without it."""
