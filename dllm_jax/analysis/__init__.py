"""Reads what runs wrote: tables, plots and reports, offline."""
