"""FractalLLM: drafts from a pass of the model that its compressed copy enters.

D placeholders follow the text, and one pass of the model over text and
placeholders begins. Before layer l_j, the j-th of m, a module interrupts it:
compressed layers l_j to N - 1 finish the pass, the draft columns take the
tokens that they read out, and compressed layers 0 to l_j - 1 turn these into
the states with which the model goes on. That is m steps of Jacobi iteration of
greedy decoding by the compressed model. The read-out of the last layer gives
W = D + m + 1 drafts, the first of which is always accepted.

If a compressed call costs c model calls, and agrees with the model with
probability p, a round costs 2 + m c and commits 2 + sum_{i=1..m} p^i tokens
(for D = 0; D = 1 adds some luck).

With the cache, the compressed layers read the keys and values that the model
itself has made of the text. That is our form, not the paper's; its own is
`use_cache=False`, in which all layers read the whole text. Deviations of both:
the token behind the last draft is kept where all drafts are accepted; an
existing token is the placeholder; all columns are present from the start,
which changes nothing, since no column reads a later one. See docs/papers.md.

Dims: B rows, Q columns, W drafts, D model.

References:
  Kim et al. 2025, FractalLLM, Findings of EMNLP (2025.findings-emnlp.1286).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dllm_jax import errors, types, validation
from dllm_jax.decoding import fields, rounds, speculative
from dllm_jax.ops import sampling

UNROLL = 1  # of the loop over modules; unrolled, operations can be counted


@fields.decoder
class Fractal(speculative.SelfSpeculative):
  """Drafts by compressed layers inside the model; a `types.Decoder`."""

  num_modules: int = fields.static(
    'modules, m; a round commits m + 2 tokens where all drafts are right',
    default=4,
  )
  layers: str = fields.static(
    "layers before which a module stands: 'even', 'late', or their numbers, "
    "such as '1,3,5,7'",
    default='even',
  )
  num_placeholders: int = fields.static(
    'placeholders behind the text', default=1
  )

  def __post_init__(self):
    super().__post_init__()
    validation.positive(self, 'num_modules')
    validation.not_negative(self, 'num_placeholders')
    if self.layers not in ('even', 'late'):
      chosen = _numbers(self.layers)
      if len(chosen) != self.num_modules:
        raise ValueError(
          f'layers {self.layers!r} are {len(chosen)}, not num_modules='
          f'{self.num_modules}'
        )

  @property
  def num_drafts(self) -> int:
    """See `CausalDecoder`."""
    return self.num_placeholders + self.num_modules + 1

  def check(self, denoiser: types.Denoiser) -> None:
    """Refuses a model that cannot be decoded so, or lacks the layers.

    Raises:
      errors.UserError: see `SelfSpeculative.check`.
    """
    super().check(denoiser)
    self.module_layers(denoiser.num_layers)

  def module_layers(self, num_layers: int) -> tuple[int, ...]:
    """l_0 < ... < l_{m-1}: the layers before which a module stands.

    'even' are the last layers of m equal parts of the model, 'late' its last m.

    Raises:
      errors.UserError: the model has fewer layers.
    """
    m = self.num_modules
    if m > num_layers:
      raise errors.UserError(
        f'num_modules is {m}, more than the {num_layers} layers of the model'
      )
    if self.layers == 'even':
      return tuple((j + 1) * num_layers // m - 1 for j in range(m))
    if self.layers == 'late':
      return tuple(range(num_layers - m, num_layers))
    chosen = _numbers(self.layers)
    if chosen[-1] >= num_layers:
      raise errors.UserError(
        f'layers {self.layers!r}: the model has layers 0 to {num_layers - 1}'
      )
    return chosen

  def draft(
    self,
    lm: types.LayeredLM,
    params: types.Params,
    state: rounds.RoundState,
    prompt: types.Canvas,
    vocab: types.Vocabulary,
  ) -> Int[Array, 'B W']:
    """See the module. The last token of the text is the first column here."""
    model, copy = params['model'], params['draft']
    num_drafts, num_layers = self.num_drafts, lm.num_layers
    # The placeholders; any token serves.
    drafts = jnp.broadcast_to(
      state.last[:, None], (len(state.last), num_drafts)
    )
    if state.cache is None:
      own = rounds.text(state, drafts, prompt)
      mask = own.attention_mask
      first = prompt.tokens.shape[1] - 1 + state.length  # of the last token
      column = first[:, None] + jnp.arange(num_drafts)[None]
      row = jnp.arange(len(first))[:, None]
      tokens_of = lambda drafts: own.tokens.at[row, column + 1].set(drafts)
    else:
      shape = (len(state.last), num_drafts)
      mask = jnp.broadcast_to(~state.done[:, None], shape)
      column = jnp.broadcast_to(jnp.arange(num_drafts)[None], shape)
      tokens_of = lambda drafts: jnp.concatenate(
        [state.last[:, None], drafts[:, :-1]], axis=1
      )
    is_draft = jnp.arange(mask.shape[1])[None] > column[:, :1]

    def run(params, states, start, stop):
      return lm.run_layers(params, states, mask, state.cache, start, stop)

    def read_out(params, states):
      at = jnp.take_along_axis(states, column[..., None], axis=1)
      return sampling.best(lm.read_out(params, at), vocab)

    def module(states, place):
      before, layer = place
      states = run(model, states, before, layer)
      # Of D + j + 1 columns; no earlier column reads what is in the others.
      drafts = read_out(copy, run(copy, states, layer, num_layers))
      head = run(copy, lm.embed(copy, tokens_of(drafts)), 0, layer)
      return jnp.where(is_draft[..., None], head, states), None

    layers = self.module_layers(num_layers)
    places = jnp.array([(0, *layers[:-1]), layers]).T
    start = lm.embed(model, tokens_of(drafts))
    states, _ = jax.lax.scan(module, start, places, unroll=UNROLL)
    return read_out(model, run(model, states, layers[-1], num_layers))


def _numbers(layers: str) -> tuple[int, ...]:
  """Ascending layer numbers.

  Raises:
    ValueError: the text is none.
  """
  try:
    chosen = tuple(int(part) for part in layers.split(','))
  except ValueError:
    chosen = ()
  if not chosen or chosen[0] < 0 or sorted(set(chosen)) != list(chosen):
    raise ValueError(
      f"layers {layers!r}: expected 'even', 'late', or ascending numbers such "
      "as '1,3,5,7'"
    )
  return chosen
