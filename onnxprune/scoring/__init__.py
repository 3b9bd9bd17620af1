"""Criteria: how much each unit matters, by weights, by data or by gradients."""
