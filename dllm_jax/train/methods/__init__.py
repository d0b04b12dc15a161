"""The methods: each file reads from top to bottom."""
