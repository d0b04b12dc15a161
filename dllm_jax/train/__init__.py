"""Training: state, optimizers, policy update, loop; methods in `methods/`."""
