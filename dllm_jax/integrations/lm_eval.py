"""A model of the library as one of EleutherAI's evaluation harness.

  python -m dllm_jax.integrations.lm_eval --model dllm_jax \
    --model_args path=LLaDA-8B-Instruct,decode=fixed,steps=256 --tasks gsm8k

is the harness's own command with one model more: the harness knows of no
others than its own until the module that registers one is imported. In Python,
`lm_eval.simple_evaluate(model=HarnessModel(path='LLaDA-8B-Instruct'), ...)`.

Texts become ids as in the harness's 'hf' model, special tokens spelled in them
included, so that both see the same tokens.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from lm_eval import utils as harness
from lm_eval.__main__ import cli_evaluate
from lm_eval.api import model as api
from lm_eval.api import registry
from lm_eval.models import utils
from tqdm import tqdm

import dllm_jax
from dllm_jax import errors, types
from dllm_jax.eval import likelihood
from dllm_jax.hf import hub
from dllm_jax.integrations import options
from dllm_jax.rollout import completions
from dllm_jax.runtime import cache, sharding
from dllm_jax.state import provenance
from dllm_jax.text import pieces


@registry.register_model('dllm_jax')
class HarnessModel(api.TemplateLM):
  """A masked diffusion model, or a causal one, in the harness.

  Args:
    path: a model folder, ORG/NAME@REVISION, or the workdir of a run.
    params: which model of a run.
    dtype: of activations; None is the run's, or else `param_dtype`.
    param_dtype: of the parameters; None is the stored one.
    data: shards of the rows; -1 is all devices that are left.
    fsdp: shards of the parameters and of the rows.
    tensor: shards of heads, hidden widths and vocabulary.
    batch_size: rows together.
    device: not read: JAX chooses, by JAX_PLATFORMS.
    max_length: tokens of a text; None is what config.json names.
    add_bos_token: whether a text begins with BOS; None is as the profile says,
      or else as the tokenizer does.
    seed: of the draws.
    masking: likelihoods of a masked diffusion model: 'count', 'bernoulli' or
      'left_to_right' (`masked_likelihood.Estimate`).
    num_samples: masked canvases of a continuation.
    likelihood_cfg_scale: scale of their guidance; None for none.
    check_greedy: whether the bounds come with a greedy decoding, one token a
      step, which few tasks ask for (LAMBADA's accuracy); else it is False. Not
      for a model that is causal over blocks.
    profile: NAME:TASK, a published protocol (`eval.profiles`), whose decoder,
      likelihood and BOS are taken where nothing else is given. Its examples and
      its template are the harness's flags; its prefill and its verdicts are not
      followed.
    decode: the decoder; None is the profile's, or else the model's.
    **decoder: its fields, by the names of the flags of launch/eval.py. Without
      `gen_length`, the tokens that a task allows; without `temperature` and
      `top_p`, the task's.

  Raises:
    errors.UserError: there is no such model, it has no tokenizer, or a value is
      refused.
  """

  def __init__(
    self,
    path: str,
    params: str | None = None,
    dtype: str | None = None,
    param_dtype: str | None = None,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    batch_size: int | str = 8,
    max_batch_size: int | None = None,
    device: str | None = None,
    max_length: int | None = None,
    add_bos_token: bool | None = None,
    seed: int = 0,
    masking: str | None = None,
    num_samples: int | None = None,
    likelihood_cfg_scale: float | None = None,
    check_greedy: bool = False,
    profile: str | None = None,
    decode: str | None = None,
    **decoder: Any,
  ):
    super().__init__()
    del max_batch_size, device
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
      raise errors.UsageError(
        f'batch_size={batch_size}: give a number of rows; none is tried out'
      )
    mesh = sharding.make_mesh(
      sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    )
    chosen = options.fields_of(decoder)
    self._profile_name = profile
    self._profile = options.protocol_of(profile)
    published = options.published_of(profile, self._profile, decode)
    self._estimate = options.estimate_of(
      self._profile,
      masking=masking,
      num_samples=num_samples,
      cfg_scale=likelihood_cfg_scale,
    )
    self._model = dllm_jax.Model.open(
      path, mesh=mesh, params=params, dtype=dtype, param_dtype=param_dtype
    )
    if self._model.tokenizer is None:
      raise errors.UserError(f'{path} has no tokenizer, and tasks are texts')
    if (
      check_greedy
      and types.block_causal(self._model.denoiser)
      and self._estimate.masking != 'left_to_right'  # which finds it by itself
    ):
      raise errors.UsageError(
        'check_greedy: the model is causal over blocks, and a continuation is '
        'no number of whole blocks; use masking=left_to_right'
      )
    self._decoding = options.Decoding(
      model=self._model,
      name=decode or self._profile.decode or self._model.decode,
      published=published,
      chosen=chosen,
    )
    self._decoding.decoder().check(self._model.denoiser)
    self._max_length = max_length or options.max_length_of(self._model)
    self._batch_size = int(batch_size)
    self._seed = seed
    self._check_greedy = check_greedy
    if add_bos_token is None and self._profile.bos:
      add_bos_token = True
    self._opening = self._opening_ids(add_bos_token)

  def _opening_ids(self, add_bos_token: bool | None) -> list[int]:
    tokenizer = self._model.tokenizer
    if add_bos_token is False:
      return []
    try:
      opening = self._parsed(tokenizer.opening)
    except ValueError as e:
      raise errors.UserError(f'the tokenizer: {e}') from e
    if add_bos_token and not opening:
      opening = [self.prefix_token_id]
    return opening

  def _parsed(self, text: str) -> list[int]:
    """Ids of a text, its special tokens parsed."""
    piece = pieces.Piece(text, True)
    return self._model.tokenizer.encode_pieces([[piece]])[0].ids

  @property
  def eot_token_id(self) -> int:
    """EOS."""
    return self._model.vocab.eos_token

  @property
  def prefix_token_id(self) -> int:
    """What stands before a text without a context: BOS, or else EOS."""
    bos = self._model.tokenizer.special.bos
    return self.eot_token_id if bos is None else bos

  @property
  def max_length(self) -> int:
    """Tokens that a text can have."""
    return self._max_length

  @property
  def max_gen_toks(self) -> int:
    """Tokens that are generated where a task says nothing."""
    return 256

  @property
  def tokenizer_name(self) -> str:
    """Names the tokenizer in the harness's caches."""
    return self._model.name.replace('/', '__')

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    """The folder's chat template, for the harness's records.

    Raises:
      errors.UserError: another one is wanted, by its name.
    """
    if isinstance(chat_template, str):
      raise errors.UserError(
        f'--apply_chat_template {chat_template}: the one of the folder alone '
        'is used; give no name'
      )
    return self._model.prompt_template(True).source if chat_template else None

  def apply_chat_template(
    self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
  ) -> str:
    """The text of a conversation, by the folder's template.

    Raises:
      errors.UserError: there is none, or it is damaged.
    """
    template = self._model.prompt_template(True)
    roles = [message['role'] for message in chat_history]
    if roles == ['user'] and add_generation_prompt:
      return pieces.joined(template.render(chat_history[0]['content']))
    return template.conversation(chat_history, is_prompt=add_generation_prompt)

  def get_model_info(self) -> dict[str, Any]:
    """What the harness's results say of the model."""
    return {
      'dllm_jax': provenance.code(),
      'weights': hub.origin(self._model.folder.path),
      'seed': self._seed,
      'decoding': self._decoding.record(),
      'likelihood': str(self._estimate),
      'profile': options.record_of(self._profile_name, self._profile),
      'max_length': self.max_length,
    }

  def tok_encode(
    self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
  ) -> list[int]:
    """Ids of a text, after what opens one unless it does so itself."""
    ids = self._parsed(string)
    opening = [] if add_special_tokens is False else self._opening
    return ids if ids[: len(opening)] == opening else opening + ids

  def _loglikelihood_tokens(
    self,
    requests: Sequence[tuple[Any, list[int], list[int]]],
    disable_tqdm: bool = False,
    **kwargs: Any,
  ) -> list[tuple[float, bool]]:
    """Of every request; those of one context are read together."""
    # All tokens of a canvas are read, but the last of a causal model's are not.
    room = self.max_length + self._model.is_causal
    pairs = [
      (options.last(context, room - len(text)), text)
      for _, context, text in requests
    ]
    order = sorted(
      range(len(pairs)),
      key=lambda i: (-len(pairs[i][0]), *map(tuple, pairs[i])),
    )
    with tqdm(total=len(pairs), disable=disable_tqdm) as bar:
      scores = likelihood.score(
        self._model.denoiser,
        self._model.params,
        [pairs[i] for i in order],
        vocab=self._model.vocab,
        mesh=self._model.mesh,
        estimate=self._estimate,
        seed=self._seed,
        batch_size=self._batch_size,
        row_ids=order,
        advance=bar.update,
      )
    is_greedy = [False] * len(pairs)
    if scores.is_greedy is not None:
      is_greedy = scores.is_greedy.tolist()
    elif self._check_greedy:
      is_greedy = self._would_generate([pairs[i] for i in order])
    found = dict(
      zip(order, zip(scores.logp.tolist(), is_greedy, strict=True), strict=True)
    )
    for i, (key, _, _) in enumerate(requests):
      if key is not None:
        self.cache_hook.add_partial('loglikelihood', key, found[i])
    return [found[i] for i in range(len(pairs))]

  def _would_generate(
    self, pairs: Sequence[tuple[list[int], list[int]]]
  ) -> list[bool]:
    """Whether greedy decoding, one token a step, writes each continuation."""
    found = {}
    for length in sorted({len(text) for _, text in pairs}):
      own = [i for i, (_, text) in enumerate(pairs) if len(text) == length]
      decoder = self._model.decoder(
        'fixed',
        {
          'gen_length': length,
          'block_length': length,
          'num_steps': length,
          'cfg_scale': self._estimate.cfg_scale,
          'stop_at_eos': False,
        },
      )
      made = self._complete([pairs[i][0] for i in own], decoder)
      for i, done in zip(own, made, strict=True):
        found[i] = done.completion_ids == pairs[i][1]
    return [found[i] for i in range(len(pairs))]

  def loglikelihood_rolling(
    self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[float]:
    """Log-likelihood of whole texts, window by window (nats)."""
    windows, owners = [], []
    for i, request in enumerate(requests):
      [text] = request.args
      for window in harness.get_rolling_token_windows(
        token_list=self.tok_encode(text),
        prefix_token=self.prefix_token_id,
        max_seq_len=self.max_length - (not self._model.is_causal),
        context_len=1,
      ):
        windows.append((None, *harness.make_disjoint_window(window)))
        owners.append(i)
    sums = [0.0] * len(requests)
    scored = self._loglikelihood_tokens(windows, disable_tqdm)
    for i, (logp, _) in zip(owners, scored, strict=True):
      sums[i] += logp
    for request, total in zip(requests, sums, strict=True):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return sums

  def generate_until(
    self, requests: Sequence[Any], disable_tqdm: bool = False
  ) -> list[str]:
    """Completions, cut where a stop string or a stop token begins.

    A row's draws depend on its place among those that a task generates alike.
    """
    alike: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
      key = json.dumps(request.args[1], sort_keys=True)
      alike.setdefault(key, []).append(i)
    found = {}
    with tqdm(total=len(requests), disable=disable_tqdm) as bar:
      for own in alike.values():
        wanted = requests[own[0]].args[1]
        kwargs = utils.normalize_gen_kwargs(wanted, self.max_gen_toks)
        until = utils.handle_stop_sequences(kwargs['until'], eos=None)
        decoder, limit = self._decoding.of_task(kwargs)
        room = self.max_length - decoder.gen_length
        rows = [
          options.last(self.tok_encode(requests[i].args[0]), room) for i in own
        ]
        for i, done in zip(own, self._complete(rows, decoder), strict=True):
          ids = done.completion_ids[:limit]
          text = completions.text(self._model.tokenizer, ids)
          found[i] = utils.postprocess_generated_text(text, until, None)
          self.cache_hook.add_partial(
            'generate_until', requests[i].args, found[i]
          )
          bar.update(1)
    return [found[i] for i in range(len(requests))]

  def _complete(self, rows: list[list[int]], decoder: types.Decoder):
    return self._model.complete(
      rows, decoder, seed=self._seed, batch_size=self._batch_size
    )


def main() -> None:
  """The harness's command."""
  cache.keep_compiled()
  try:
    cli_evaluate()
  except errors.UserError as e:
    print(f'lm_eval: {" ".join(str(e).split())}', file=sys.stderr)
    sys.exit(e.code)


if __name__ == '__main__':
  main()
