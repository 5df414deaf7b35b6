"""Dagster assets and asset checks, made from the stages of a recipe."""
