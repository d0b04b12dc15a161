"""The loop of every decoder, on one device or on several in lockstep."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

State = TypeVar('State')


def loop_while(
  goes_on: Callable[[State], Bool[Array, '']],
  step: Callable[[State], State],
  start: State,
  axes: tuple[str, ...],
) -> State:
  """Applies `step` while this device, or any along `axes`, goes on.

  Args:
    goes_on: whether the rows of this device need another step.
    step: may use collectives over `axes`; rows that are done stay frozen in it.
    start: a pytree.
    axes: mesh axes whose devices take equally many steps; () for none.
  """

  def any_goes_on(state):
    local = goes_on(state)
    if not axes:
      return local
    return jax.lax.psum(local.astype(jnp.int32), axes) > 0

  def body(carry):
    state = step(carry[0])
    return state, any_goes_on(state)

  # The condition is carried so that collectives occur only in the body.
  state, _ = jax.lax.while_loop(
    lambda carry: carry[1], body, (start, any_goes_on(start))
  )
  return state
