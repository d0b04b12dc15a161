"""The cost of programs: counted in compiled code, and measured."""
