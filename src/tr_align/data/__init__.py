"""Preference data: one row schema, one module a source."""
