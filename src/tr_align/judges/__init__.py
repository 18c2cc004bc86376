"""Judges: who says how good a reply is. One interface, an embedded judge and any OpenAI-compatible model."""
