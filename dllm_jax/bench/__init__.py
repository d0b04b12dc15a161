"""What programs cost: counted from what was compiled, and measured."""
