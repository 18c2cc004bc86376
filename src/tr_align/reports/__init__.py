"""The results as a reader meets them: figures, tables, a page, and the DVC plot template."""
