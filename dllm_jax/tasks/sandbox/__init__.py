"""Model-written programs, run where they can do no harm and tell no lies.

See docs/sandbox.md for what each tier keeps out, and what it does not.
"""

from dllm_jax.tasks.sandbox import self_test
from dllm_jax.tasks.sandbox.hosts import Refused, available_tiers
from dllm_jax.tasks.sandbox.limits import Limits
from dllm_jax.tasks.sandbox.pool import Sandbox

__all__ = ['Limits', 'Refused', 'Sandbox', 'available_tiers', 'self_test']
