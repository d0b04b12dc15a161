"""Decoders: pure steps inside `lax.while_loop`, for any `types.Denoiser`."""
