"""Offline: reads what runs wrote."""
