"""The report as one HTML page that needs no network."""

from tr_align.reports.page.build import PAGE_BYTES, build_page

__all__ = ["PAGE_BYTES", "build_page"]
