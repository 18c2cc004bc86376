"""Trained models for others: a folder that transformers loads, with its model card; an upload to the hub."""
